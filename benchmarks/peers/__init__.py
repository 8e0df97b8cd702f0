"""Other ways of doing what potstill does, each as its own documentation recommends, to be measured beside it."""

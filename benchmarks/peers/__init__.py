<<<<<<< HEAD
"""Other ways of doing what potstill does, each as its own documentation recommends, to be measured beside it."""
=======
"""What potstill is measured beside: one module a peer, each a program that answers texts over a pipe."""
>>>>>>> 516195b (Time what ships against its peers, in turns, each in a process of its own)

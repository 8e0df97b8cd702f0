"""A page that runs a student in the reader's browser: the files of the page, and ONNX Runtime's for it. No torch."""

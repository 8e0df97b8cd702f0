"""Making a student from a teacher, or from another pretrained model. Imports torch.

Random initialisation costs more than dropping any loss term (Sanh et al., 2019, "DistilBERT", table 4), so every weight of
an encoder student starts as a weight of the teacher, or as its closest approximation.
"""

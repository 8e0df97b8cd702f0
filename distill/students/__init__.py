"""Making a student from a teacher, or from another pretrained model. A torch room.

Random initialisation costs more than dropping any loss term (Sanh et al., 2019, "DistilBERT", table 4), so every
weight of the student starts as a weight of the teacher, or as the nearest thing to it.
"""

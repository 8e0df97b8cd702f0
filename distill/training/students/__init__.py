"""Making a student out of a teacher, or of another pretrained model.

Random initialisation costs more than dropping any loss term (Sanh et al., 2019, "DistilBERT", table 4), so every
weight of the student starts as a weight of the teacher, or as the nearest thing to it.
"""

from distill.training.students.build import build_student as build_student
from distill.training.students.layers import chosen_layers as chosen_layers
from distill.training.students.pretrained import load_student as load_student

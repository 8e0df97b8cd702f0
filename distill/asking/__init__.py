"""Language models as teachers: what they are asked, the address that answers, the kept answers, their audit. No torch."""

"""Quality figures, their intervals, and what they prove. numpy and scikit-learn only."""

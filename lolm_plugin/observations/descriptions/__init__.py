"""What the observations of tasks say, one file per family; see ``observations/description.py``."""

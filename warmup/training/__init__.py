"""What train.py puts together: data, models, engines, checkpoints, and the run itself. See README.md in this folder."""

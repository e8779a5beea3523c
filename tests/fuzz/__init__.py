"""Random command lines and damaged yaml files: whatever a user writes ends in exit code 0, 1 or 2 and one sentence.

CI runs a fixed seed through the checks that come before anything slow is loaded. A longer run by hand, which also
trains for a moment where the checks let a command line through:

    python -m tests.fuzz --cases 5000 --seed 7 --train
"""

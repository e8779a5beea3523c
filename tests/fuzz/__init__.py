"""Random command lines and damaged yaml files: any input ends with exit code 0, or with 1 or 2 and one error sentence.

CI tests a fixed seed with the checks that run before anything slow is loaded. A longer run by hand also trains for a
few steps if a command line passes the checks:

    python -m tests.fuzz --cases 5000 --seed 7 --train
"""

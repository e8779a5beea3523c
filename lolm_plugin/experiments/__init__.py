"""Many runs side by side: suites, transfers, statistics, reports. Knows training as a command line and a record."""

"""What the tests share: sounds and small models, oracles, faults, runs of commands, results made by hand."""

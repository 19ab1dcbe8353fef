"""One folder for each study, with `run(config, folder)` in `study.py`. Studies compose the library."""

"""One file per study: `run(config, folder)`. A study composes the library and holds no algorithm of its own."""

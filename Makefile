# make demo: the whole loop on this machine.  make test: the whole suite.

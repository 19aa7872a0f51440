"""llama.cpp's own server on loopback: server.py MODEL PORT"""

import signal
import sys

import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.hostnames = ["127.0.0.1"]
settings.port = int(sys.argv[2])
settings.model_alias = {"tiny"}
settings.n_parallel = 4
settings.n_ctx = 4096
settings.cpuparams.n_threads = 1
settings.warmup = False
settings.fit_params = False
server = xllamacpp.Server(settings)
signal.pause()

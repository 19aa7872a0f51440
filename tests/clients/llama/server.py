"""llama.cpp's own server on loopback: server.py MODEL PORT [SECONDS [PROJECTOR [embeddings]]]

It has four slots of 4096 tokens, and says at /slots and /metrics what it is doing. Its model is unloaded when it has nothing to do
for so many seconds that are not 0, and loaded again for the next request. With a projector it reads pictures; an empty one is none.
"""

import signal
import sys

import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.hostnames = ["127.0.0.1"]
settings.port = int(sys.argv[2])
settings.model_alias = {"tiny"}
settings.n_parallel = 4
settings.n_ctx = 4 * 4096
settings.cpuparams.n_threads = 1
settings.warmup = False
settings.fit_params = False
settings.endpoint_slots = settings.endpoint_metrics = True
if sys.argv[3:] and sys.argv[3] != "0":
    settings.sleep_idle_seconds = int(sys.argv[3])
if sys.argv[4:] and sys.argv[4]:
    settings.mmproj.path = sys.argv[4]
    settings.mmproj_use_gpu = False
if sys.argv[5:] == ["embeddings"]:
    settings.embedding = True
    settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(settings)
signal.pause()

"""What the clients here share: how an answer is noted for charges.py, and that a call raises."""

import json
import os


def note(what, model, headers, prompt, cached, completion, cost, estimated=None):
    """An answer with the usage that its client read; a whole one also says in a header what it cost."""
    charged = headers.get("x-credits-charged")
    assert charged is None or float(charged) == cost, (what, charged, cost)
    answer = {"what": what, "model": model, "request_id": headers["x-request-id"], "prompt": prompt, "cached": cached}
    answer |= {"completion": completion, "cost": cost, "estimated": estimated}
    with open(os.environ["ANSWERS"], "a") as answers:
        print(json.dumps(answer), file=answers)
    usage = f": {prompt} tokens ({cached} cached), {completion} written, {cost} credits"
    print(f"ok      {what}{'' if estimated else usage}")


def raises(kind, status, call):
    """The error that a call raises; of a stream, when it is read."""
    try:
        answer = call()
        answer = answer if not hasattr(answer, "__next__") else list(answer)
    except kind as error:
        assert type(error) is kind, (type(error), error)
        assert getattr(error, "status_code", None) == status, error
        return error
    raise AssertionError(f"{kind.__name__} was not raised: {answer!r}")


def served(path):
    """Whether this llama.cpp serves it."""
    return path not in os.environ["LACKS"].split()

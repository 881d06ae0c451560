"""A process that has imported what the commands need, and forks for each of them: a start takes no seconds of imports.

conftest.py starts it and writes a line of JSON for each request; it answers with a number. What it forks has a session,
arguments, a working directory, an environment and output of its own, and ends as a new interpreter would.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import sys
import threading
import warnings

gc.disable()  # a fifth of the time of imports
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of other packages while they are imported
    import captum.attr  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch._dynamo  # which optimizers import  # noqa: F401
    import torchvision.models  # noqa: F401

    import captum_region.saliency
    import captum_region.slices  # noqa: F401
    import fairlearn_bridge.audit.page
    import fairlearn_bridge.audit.results
    import fairlearn_bridge.report
    import fairlearn_bridge.sweep  # noqa: F401


def become(request):
    """Take over the session, output, place and arguments of a request."""
    os.setsid()
    for descriptor, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        os.dup2(os.open(name, os.O_RDWR), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for action in filter(None, os.environ.get("PYTHONWARNINGS", "").split(",")):
        warnings.simplefilter(action)
    sys.argv[:] = request["arguments"]


def run(program, *arguments):
    """Run ``-m`` module or a script, as the main module."""
    if program == "-m":
        sys.path[0] = os.getcwd()
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(program)
        runpy.run_path(program, run_name="__main__")


def end_after(to_run):
    """Run what a request asks for, and end as a new interpreter would, but for the seconds of freeing all modules."""
    code = 0
    try:
        run(*to_run)
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # As multiprocessing ends what it forks.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    """Answer requests until there are no more; in a child, return the request that it is to run."""
    ended = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            ready, done = os.pipe()
            if (answer := os.fork()) == 0:
                become(request)
                os.close(done)
                return request["arguments"]
            os.close(done)
            os.read(ready, 1)  # until it has a session of its own, which can be killed
            os.close(ready)
        else:  # how the child ended, or null
            pid = request["pid"]
            if pid not in ended and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answer = ended.get(pid)
        print(json.dumps(answer), flush=True)
    return None


if __name__ == "__main__":
    gc.freeze()  # what was imported is neither looked through nor copied by collections in what is forked
    gc.enable()
    if (to_run := serve()) is not None:
        end_after(to_run)

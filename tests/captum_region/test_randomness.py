"""torch's global generators are seeded by one thread at a time and restored afterwards."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from captum_region.randomness import seeded


def draw(seed):
    drawn = []
    with seeded(seed):
        for _ in range(20):
            drawn.append(float(torch.rand(())))
            with seeded(0):
                torch.rand(())
            time.sleep(0.001)  # the other threads' chance
    return drawn


def test_threads_draw_what_each_draws_alone_and_leave_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    alone = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(4))) == alone
    assert torch.equal(before, torch.get_rng_state())


FORKED = """
import os, threading, torch
from captum_region.randomness import seeded

entered, done = threading.Event(), threading.Event()

def hold():
    with seeded(0):
        entered.set()
        done.wait()

holder = threading.Thread(target=hold)
holder.start()
entered.wait()
child = os.fork()
if child == 0:
    with seeded(1):
        os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
holder.join()
raise SystemExit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_while_another_thread_holds_the_lock_does_not_wait():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], timeout=120, check=False)
    assert done.returncode == 7

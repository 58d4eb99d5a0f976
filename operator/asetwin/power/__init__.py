"""The power agent: it alone switches the machines of the worker VMs.

From the cluster to the engine and back: :mod:`~asetwin.power.agent` follows
the PinnedWorkers and the engine's events, :mod:`~asetwin.power.rules` decides,
:mod:`~asetwin.power.docker` does it and looks, and the agent writes what was
seen into ``status.power``. :mod:`~asetwin.power.presence` tells the operator
that somebody does all this, :mod:`~asetwin.power.serving` is the process.

What the operator may rely on:

- ``desired`` is the operator's, the other fields of ``status.power`` are the
  agent's; each writes only its own.
- ``observed: Off`` is proof: the engine itself said that the container has
  ended, and since when. It stays true until ``observed`` changes.
- A container that somebody else has stopped is left alone while On is desired
  (it plays a power loss until the same person starts it again). One that the
  agent has stopped is started as soon as On is desired.
- ``startedAt`` moves with every start: a machine that died and came back while
  nobody looked has rebooted, whatever ``observed`` says. It names a run;
  ``finishedAt`` may be put right by a moment once the engine says it exactly.
- ``observed: Unknown`` says that nothing is known, and ``proof`` says why. It
  is neither a loss nor a fence.
"""

"""The rules of the device, pure: no I/O, no clock, no randomness.

:mod:`~asetwin.model.decide` composes them: it takes a
:class:`~asetwin.model.snapshot.Snapshot` and the time, and answers with a
:class:`~asetwin.model.plan.Plan`. One module per rule; each names the part of
the design that it states.
"""

"""The processes that run in pods of the twin, beside the operator.

:mod:`~asetwin.standin.master` stands for the device's master VM,
:mod:`~asetwin.standin.web` for somebody's workload. Both start fast, so
importing this package imports nothing.
"""

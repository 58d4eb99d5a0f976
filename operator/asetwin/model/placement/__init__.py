"""Does this pod fit that Node, given what is there: the scheduler's filters, without its clock.

In the order of the flow: ``rooms`` is one Node with what runs on it,
``relations`` how pods relate to each other across Nodes, ``boards`` puts both
together and answers for one pod and one Node with every reason, ``queues``
places many pods in the scheduler's order, with ``preemptions``. Callers: the
rules for FailoverReady, for GPUs and for the return, the simulated scheduler,
and ``asetwin check``.

Source: kube-scheduler's default plugins, v1.33 to v1.37. Left out because the
twin has none of it: dynamic resource allocation, volume count limits of cloud
disks, zones of in-tree volumes, extenders and additional profiles.
"""

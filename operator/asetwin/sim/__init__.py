"""A whole cluster in one process, under a virtual clock (design 5).

:mod:`~asetwin.sim.clock` is time, :mod:`~asetwin.sim.apiserver` the API
server behind :mod:`~asetwin.sim.wire`, which is the same port as
:mod:`asetwin.kube.client`; :mod:`~asetwin.sim.controllers`,
:mod:`~asetwin.sim.scheduler` and :mod:`~asetwin.sim.kubelets` are what else
lives in a cluster. :mod:`~asetwin.sim.process` runs the real operator on it,
unchanged, and :mod:`~asetwin.sim.world` is all of that together, which is
what scenarios and tests use.
"""

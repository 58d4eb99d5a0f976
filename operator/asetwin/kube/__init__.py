"""The only code that talks to a Kubernetes API server.

:mod:`~asetwin.kube.client` is the wire, :mod:`~asetwin.kube.observe` reads,
:mod:`~asetwin.kube.act` writes. Rules live in :mod:`asetwin.model`.
"""

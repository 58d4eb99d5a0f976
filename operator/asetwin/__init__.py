"""asetwin: a working twin of a two-node Azure Stack Edge device on kind.

The flow, outermost first: :mod:`asetwin.operator` wires kopf's events to
:mod:`asetwin.loop`, which per device reads the cluster through
:mod:`asetwin.kube.observe`, asks :mod:`asetwin.model.decide` what should
be, and lets :mod:`asetwin.kube.act` bring it about.
"""

__version__ = "0.1.0"

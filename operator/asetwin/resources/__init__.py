"""Typed objects: what a cluster holds, as far as asetwin reads it.

:mod:`~asetwin.resources.devices` has asetwin's own kinds, held together with
``crds/`` by a test; the other modules have the part of Kubernetes' kinds that
the rules need. Everything here is data: no I/O, no clock, no decisions.
"""

"""``asetwin check``: would these manifests survive the loss of a node, before they are deployed?

In the order of the flow: ``schemas`` says which field is of the wrong type,
``manifests`` makes workloads and pods of documents as controllers and the API
server do, ``scenes`` places them on a device, ``verdicts`` loses one node and
then the other, ``advice`` looks at each workload for itself. What comes out
are ``findings``. The files are read and the answer is written by
:mod:`asetwin.cli.check`.
"""

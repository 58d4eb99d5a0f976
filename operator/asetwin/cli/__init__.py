"""The command line: ``asetwin …``, also installed as ``kubectl ase …``.

:mod:`~asetwin.cli.main` is where the process starts, :mod:`~asetwin.cli.app`
lists the verbs, and each verb is a module of the same shape: parse and check
the arguments, a ``run`` that talks to the cluster and returns data, and
printing. What is heavy to import is imported by the verb that needs it.
"""

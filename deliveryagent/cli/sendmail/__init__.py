"""The commands that other programs know: ``sendmail``, ``mailq`` and ``newaliases``, in Postfix's shape.

``arguments`` reads a command line of ``sendmail``, ``program`` carries it out, ``submission`` hands a message
over, ``flush`` gives orders about the queue, ``mailq`` lists it, ``standard_input`` speaks SMTP, ``sysexits``
has the exit statuses. What hands over a message loads as little as ``dagent send`` does. Importing this package
loads nothing.
"""

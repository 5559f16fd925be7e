"""The parts of the manual pages that no declaration can say.

``**word**`` is literal text in bold, ``*word*`` a placeholder. Lists of options, settings, tables and exit
statuses do not belong here: they are taken from the program.
"""

COMMANDS = """
**dagent** hands messages to the delivery agent, shows and changes what waits in its queue, explains why a
message has not been delivered and what happens next, and runs the agent itself. **deliveryagent** is the same
program under its full name.

Commands that send or change something talk to the running service over the Unix socket in its *run_dir*; with
no service running they take the queue's lock and do the work themselves. Data go to standard output, messages
to standard error. Text that comes from other hosts is shown with control characters escaped.

With **--json**, a list is one object a line and everything else one object. Times are RFC 3339 in UTC,
durations seconds, sizes bytes; fields are only ever added.
"""

ENVIRONMENT = {
    "DELIVERYAGENT_CONFIG": "The configuration file, unless **--config** names one.",
    "DELIVERYAGENT_SECTION__KEY": (
        "One setting, such as **DELIVERYAGENT_SMTP__CONNECT_TIMEOUT=5s**; **DELIVERYAGENT_HOSTNAME**, "
        "**DELIVERYAGENT_POSTMASTER** and **DELIVERYAGENT_RUN_DIR** for those in no section."
    ),
    "STATE_DIRECTORY, RUNTIME_DIRECTORY": (
        "Set by systemd: where the queue and the socket are unless the configuration says it."
    ),
    "NO_COLOR": "When not empty, no colour is used unless **--color** asks for it.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd for **dagent serve**; see sd_notify(3).",
}

FILES = {
    "/etc/deliveryagent/deliveryagent.toml": "The configuration; without it the built-in defaults apply.",
    "/var/lib/deliveryagent/queue.sqlite3": (
        "The queue, with the files **-wal** and **-shm** that SQLite keeps beside it: never copy or remove "
        "one of the three alone."
    ),
    "/run/deliveryagent/deliveryagent.sock": "The service's socket.",
}

SETTINGS = """
The file is TOML in UTF-8: **key = value** lines under **[section]** headings. Everything has a default, so an
empty file, or none, is a working configuration that delivers to the MX hosts of each recipient's domain. An
unknown key is an error, not a remark: **dagent config check** reports every error of the file at once, with
its line.

A time is a text such as **"250ms"**, **"30s"**, **"5m"**, **"1h30m"**, **"5d"**, or a bare number of seconds.
A size is a text such as **"50 MB"** or **"64 KiB"**, or a bare number of bytes. A list stands in brackets:
**["a", "b"]**.

A value may also come from the environment, as **DELIVERYAGENT_SECTION__KEY**, and from the option **--set
SECTION.KEY=VALUE** of every command. The command line wins over the environment, the environment over the
file, the file over the default; **dagent config show --origin** says where each value comes from. In those
two places elements of a list may be separated by commas or spaces.

The service reads the file when it starts and on **systemctl reload deliveryagent**. A reload with a bad file
is refused, with a message, and the old configuration stays in force.

Keys of **[smtp]** and **[lmtp]** are Postfix's **smtp_** and **lmtp_** parameters without the prefix.
**dagent config explain** finds a setting by its Postfix name too.
"""

SECTIONS = {
    "smtp": "How mail is delivered by SMTP.",
    "lmtp": (
        "How mail is delivered by LMTP, where a next hop asks for it. The keys are those of **[smtp]**; "
        "defaults may differ."
    ),
    "dns": "How names are looked up.",
    "relay": "A smart host that takes everything no **[[route]]** takes.",
    "submit": "Who may use the service's socket. The kernel says who is calling.",
    "log": "The event log: one record for each attempt and recipient, complete in itself.",
    "queue": "Where messages wait, for how long, how often they are tried, and how big they may be.",
    "delivery": "How much is delivered at a time, how loops are recognised, and who is told of trouble.",
}

ROUTES = """
Each **[[route]]** sends some destinations another way, or treats them differently. They are looked at in the
order of the file and the first that matches wins. A destination that no route takes goes to **relay.host**,
or, without one, to its own MX hosts.

A next hop is written as in Postfix. **example.net** and **example.net:2525** look up MX records;
**[mail.example.net]**, **[mail.example.net]:587**, **[192.0.2.1]** and **[ipv6:2001:db8::1]** do not.
**lmtp:unix:/run/lmtp.sock** and **lmtp:inet:host:24** deliver by LMTP. Several, separated by commas, are
tried in order. **error:5.1.1 text** returns the mail to its sender, **hold:text** keeps it for a person,
**discard:text** drops it as delivered.

A route may also narrow settings of **[smtp]** (or **[lmtp]**, for an LMTP next hop) and some of
**[delivery]**, whose **default_** is dropped from the name here.
"""

EXAMPLES = (
    (
        "Everything through a smart host:",
        """
hostname = "web1.example.org"

[relay]
host = "[smtp.example.net]:587"
""",
    ),
    (
        "Mail for the own domain to a local LMTP server, gently to one slow receiver, the rest by MX:",
        """
hostname = "mail.example.org"

[[route]]
match = ["example.org", ".example.org"]
nexthop = "lmtp:unix:/run/dovecot/lmtp"

[[route]]
match = ["slow.example"]
destination_concurrency_limit = 2
connect_timeout = "60s"
""",
    ),
)

SCHEMA = """
What waits, what was tried and what is known of each destination is kept in the tables below. Other programs
may read them at any time (of an SQLite queue: open the file read-only). Only the agent writes: a program that
wants to send or change something uses **dagent** or the Python client, because a change made behind the
agent's back is found too late, or not at all.

Tables and columns are added between releases, with **dagent db migrate --plan** showing the steps beforehand.
"""

SERVICE = (
    (
        "Description",
        """
The service takes messages from local programs, keeps them in a queue on disk until each recipient has been
delivered to or its sender has been told why not, and delivers them by SMTP and LMTP. It says yes to a message
only after the message is on stable storage.

**dagent serve** is the queue manager: it alone decides what is tried when, and it alone writes the queue. It
starts worker processes, which look up names, speak to the receiving hosts and report what happened, and
restarts those that die. A second manager on the same queue refuses to start.

With **--until-idle** it ends as soon as nothing is runnable and no attempt is in flight.
""",
    ),
    (
        "Under systemd",
        """
The unit **deliveryagent.service** runs the agent as the user **deliveryagent**, without capabilities and in a
sandbox; it works with **DynamicUser=yes** as well. The service reports when it is ready, shows its state in
**systemctl status**, and is restarted when its scheduler makes no progress for a minute. It is not restarted
when its configuration is bad (exit status 78).

Stopping lets transactions that run come to their end; one whose content has been sent waits for the
receiver's answer, because giving up then means that the message is sent a second time. The unit allows eleven
minutes for it.
""",
    ),
    (
        "Access",
        """
Every local user may send. Looking at the queue and changing it is for root, for the user of the service, and
for members of the group **deliveryagent**; see **[submit]** in **deliveryagent.toml**(5).
""",
    ),
    (
        "When something is wrong",
        """
**dagent status** shows the state on one screen and **dagent why** the reasons for one message. When outcomes
cannot be recorded because the disk is full or the store is away, delivery pauses as well as intake, and goes
on by itself; nothing is ever deleted to get going again. **dagent db check** verifies the queue.

A message during whose delivery the agent crashed three times is put on hold, and the postmaster is told.
""",
    ),
)

SIGNALS = {
    "SIGTERM, SIGINT": (
        "Stop: begin nothing new, let running transactions end, exit 0. A second one does not wait."
    ),
    "SIGHUP": "Read the configuration again and open the log file anew.",
}

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
        "**DELIVERYAGENT_ORIGIN**, **DELIVERYAGENT_POSTMASTER** and **DELIVERYAGENT_RUN_DIR** for those in no "
        "section."
    ),
    "STATE_DIRECTORY, RUNTIME_DIRECTORY": (
        "Set by systemd: where the queue and the socket are unless the configuration says it."
    ),
    "NO_COLOR": "When not empty, no colour is used unless **--color** asks for it.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd for **dagent serve**; see sd_notify(3).",
}

FILES = {
    "/etc/deliveryagent/deliveryagent.toml": "The configuration; without it the built-in defaults apply.",
    "/etc/deliveryagent/users": (
        "Accounts, where a **[[listener]]** names this file; for the service's group alone, mode 0640."
    ),
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

LISTENERS = """
Each **[[listener]]** is a door through which mail comes in by SMTP or LMTP, served by a process of its own.
Without any, local programs send over the service's socket, and nobody else sends at all. Every listener names
its **address**; everything else has a default. Nothing is relayed for strangers: who may send are users who
logged in (**users**), hosts of **trusted_networks**, whoever can open a Unix socket, and whom a hook lets in.

A port below 1024 is best held by systemd, which also keeps clients waiting while the service restarts: enable
**deliveryagent-submission.socket** (port 587), **deliveryagent-submissions.socket** (465),
**deliveryagent-smtp.socket** (25) or **deliveryagent-lmtp.socket**, and write **address =
"systemd:submission"** and so on. A socket that systemd holds at the very address of a listener is found
without its name as well.

On a reload new sessions follow the new settings, and those that are open go on under the old ones. A listener
whose new settings do not work, for example because a hook cannot be loaded, stays as it was, and the log says
why; at the start of the service it is an error. **dagent config check** and every start try certificates with
their keys.
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
    (
        "Programs of other hosts log in on port 587, and those of this host send without on port 25:",
        """
hostname = "mail.example.org"

[[listener]]
kind = "submission"
address = "systemd:submission"
tls_certificate = "/etc/deliveryagent/cert.pem"
tls_key = "/etc/deliveryagent/key.pem"
tls_key_passphrase = "credential:tls-key"
users = "/etc/deliveryagent/users"

[[listener]]
kind = "smtp"
address = "127.0.0.1:25"
trusted_networks = ["127.0.0.0/8"]
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
starts worker processes, which look up names, speak to the receiving hosts and report what happened, and a
process for each **[[listener]]**, and restarts those that die. A second manager on the same queue refuses to
start.

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
    "SIGHUP": "Read the configuration again, certificates too, and open the log file anew.",
}

SENDMAIL = """
**deliveryagent-sendmail** hands the message on standard input to the delivery agent. It takes the place of
the **sendmail** of Postfix, under that name or another: link **/usr/sbin/sendmail** and **/usr/lib/sendmail**
to it, and **mailq** and **newaliases** to the other two. Arguments are recipients, each an address or a list as
in a header field. Options may stand before and behind them; **--** ends the options.

The message is the header section, an empty line and the body, with lines that end in LF or CRLF. A line with
only a dot ends it unless **-i** is given. From, Date and Message-ID are added when they are missing; Bcc is
removed.

The service's socket is used, so neither the command nor its caller needs any rights. While the service restarts
the call waits for it. With success the message is on stable storage.

**deliveryagent-mailq** lists what waits, in the shape of Postfix with long queue ids: an asterisk behind an id
says that an attempt is in flight, **!** that the message is on hold. **dagent queue list** says more. Only
those who may look at the queue can use it.

**deliveryagent-newaliases** does nothing and succeeds: there are no aliases here.
"""

SENDMAIL_OPTIONS = {
    "**-bi**, **-I**": "Do what **newaliases** does: nothing.",
    "**-bm**": "Take a message. This is the default.",
    "**-bp**": "Do what **mailq** does.",
    "**-bs**": "Speak SMTP on standard input and output.",
    "**-bv**": "Take no message, but try the way to each recipient, as **dagent probe --rcpt** does.",
    "**-F** *name*": (
        "The full name of the sender, for a From field that has to be added. Default: the variable **NAME**."
    ),
    "**-f** *sender*, **-r** *sender*": (
        "The envelope sender, to whom reports go; **<>** or nothing is the null sender. Default: the caller's "
        "own address."
    ),
    "**-i**, **-oi**": "A line with only a dot is part of the message.",
    "**-N** *when*": (
        "Which reports the sender wants: **never**, or some of **success**, **failure**, **delay** with commas "
        "between them."
    ),
    "**-O requiretls=yes**": (
        "Hand the message only to hosts that promise protected transport, or return it. Other **-O** options "
        "are ignored."
    ),
    "**-q**": "Try everything that waits now. Hosts that did not answer before are tried again, too.",
    "**-qI** *id*": "Try one message now.",
    "**-qR** *site*": "Try everything that waits for a domain now.",
    "**-R** *what*": "What a report returns of the message: **full** or **hdrs**.",
    "**-t**": "Take recipients from To, Cc and Bcc, besides those that are arguments.",
    "**-V** *id*": "An identifier that reports repeat.",
}

SENDMAIL_IGNORED = """
Without a meaning here, and ignored as in Postfix: **-A** *x*, **-B** *type*, **-bh**, **-bH**, **-C** *file*,
**-c**, **-e** *x*, **-G**, **-h** *hops*, **-L** *label*, **-m**, **-n**, **-o** *x* but for
**-oi**, **-p** *x*, **-q** with a time, **-U**, **-v**, **-X** *file*, **-x**.

Refused: **-bd** and **-bl**, since the service is not started by this command, and **-XV**, since variable
return paths are not offered.
"""

SENDMAIL_STATUS = {
    0: "Done; a message is on stable storage.",
    64: "The command line makes no sense, or there is no recipient.",
    65: "An address or the content is not acceptable, now or later.",
    69: "What is asked for is not offered, or not possible now.",
    70: "A fault of this program or of the service.",
    71: "The system refused something this command needs.",
    74: "The message could not be read from standard input.",
    75: "Nothing was taken; try again later. No service could be reached, or it cannot write the queue.",
    77: "You may not do that.",
    78: "The configuration is bad.",
}

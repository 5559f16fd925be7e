-- One message in the caller's own transaction: a commit makes it the agents' business, a rollback undoes it.
-- Takes no lock that anybody else waits for: that destinations have work is written to deliveryagent.arrival,
-- in rows of this transaction alone, and the agents carry it on.
CREATE OR REPLACE FUNCTION deliveryagent.enqueue(
    sender text,
    recipients text[],
    content bytea,
    key text DEFAULT NULL,
    at timestamptz DEFAULT NULL,
    tags jsonb DEFAULT '{}',
    dsn text DEFAULT NULL,
    ret text DEFAULT NULL,
    envid text DEFAULT NULL,
    hold boolean DEFAULT false
) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $fn$
#variable_conflict use_column
DECLARE
    terms deliveryagent.terms;
    moment CONSTANT double precision := extract(epoch FROM clock_timestamp());
    not_before double precision := coalesce(extract(epoch FROM enqueue.at), 0);
    due double precision;
    id bigint;
    addresses text[];
    destination text;
    form record;
    holder record;
    fingerprint bytea;
    held CONSTANT boolean := coalesce(enqueue.hold, false);
    status CONSTANT text := CASE WHEN held THEN 'held' ELSE 'queued' END;
    wish CONSTANT smallint := deliveryagent.notify_wish(enqueue.dsn);
    labels CONSTANT text := deliveryagent.checked_tags(enqueue.tags);
    login CONSTANT text := regexp_replace(session_user, '[^A-Za-z0-9_.-]', '?', 'g');
BEGIN
    SELECT * INTO terms FROM deliveryagent.terms;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = 'the queue does not know its own name and limits yet',
            HINT = 'Run dagent db migrate, or start dagent serve once.';
    END IF;

    IF enqueue.sender IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML001', MESSAGE = 'the sender is null',
            HINT = 'The null sender, to whom nothing is ever reported, is written as an empty text.';
    ELSIF enqueue.sender IN ('', '<>') THEN
        sender := '';
    ELSE
        sender := deliveryagent.wire_address(enqueue.sender, terms.hostname, 'ML001', 'the sender');
    END IF;
    addresses := deliveryagent.distinct_addresses(enqueue.recipients, terms);
    IF enqueue.content IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003', MESSAGE = 'the content is null';
    END IF;
    IF not_before > moment + 366 * 86400.0 OR not_before = '-infinity' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'the time to send is more than a year ahead';
    END IF;
    not_before := CASE WHEN not_before > moment THEN not_before ELSE 0 END;
    IF upper(enqueue.ret) NOT IN ('', 'FULL', 'HDRS') THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004',
            MESSAGE = format('"%s" is not what a report can return', enqueue.ret), HINT = 'Use "full" or "hdrs".';
    END IF;
    ret := upper(coalesce(enqueue.ret, ''));
    envid := coalesce(enqueue.envid, '');
    key := coalesce(enqueue.key, '');
    PERFORM deliveryagent.check_text(envid, 'envelope id', 100);
    IF octet_length(envid) > length(envid) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'the envelope id has characters beyond ASCII';
    END IF;

    -- Microseconds since 2020 and 12 bits: those of the functions here begin with a 1, those of agents with a
    -- 0, and two calls have the same only when 2,048 come within a microsecond (deliveryagent/queue/ids.py).
    id := floor((moment - 1577836800) * 1e6)::bigint << 12
        | 2048 | (nextval('deliveryagent.call') & 2047);
    IF key <> '' THEN
        PERFORM deliveryagent.check_text(key, 'key', 200);
        fingerprint := sha256(sha256(enqueue.content) || convert_to(
            sender || E'\n' || (SELECT string_agg(a, E'\n' ORDER BY a COLLATE "C") FROM unnest(addresses) AS a), 'UTF8'
        ));
        LOOP
            INSERT INTO {tables}.submission_key (key, message_id, digest, created)
            VALUES (enqueue.key, id, fingerprint, moment) ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            SELECT k.message_id, k.digest = fingerprint AS same INTO holder
            FROM {tables}.submission_key AS k WHERE k.key = enqueue.key;
            IF holder.same THEN
                RETURN deliveryagent.shown_id(holder.message_id);
            ELSIF FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'ML005',
                    MESSAGE = format('the key "%s" belongs to another message: %s',
                                     enqueue.key, deliveryagent.shown_id(holder.message_id)),
                    HINT = 'Use a new key, or send exactly what was sent before.';
            END IF;
        END LOOP;
    END IF;

    form := deliveryagent.wire_form(
        enqueue.content, sender, deliveryagent.shown_id(id), 'from database user ' || login, moment, terms);
    INSERT INTO {tables}.message
        (id, sender, size, dotted, eightbit, utf8, long_lines, ret, envid, recipient_count, origin, tags, not_before)
    VALUES (id, sender, octet_length(form.wire), form.dotted, form.eightbit, form.utf8, form.long_lines,
        ret, envid, cardinality(addresses), 'sql=' || login, labels, not_before);
    IF octet_length(form.wire) <= 262144 THEN
        INSERT INTO {tables}.content (message_id, part, data) VALUES (id, 0, form.wire);
    ELSE
        INSERT INTO {tables}.content (message_id, part, data)
        SELECT id, part, substr(form.wire, part * 262144 + 1, 262144)
        FROM generate_series(0, (octet_length(form.wire) - 1) / 262144) AS part;
    END IF;
    due := CASE WHEN NOT held THEN greatest(moment, not_before) END;
    IF cardinality(addresses) = 1 THEN  -- statements without a query of their own cost half as much
        destination := deliveryagent.destination_of(addresses[1]);
        INSERT INTO {tables}.recipient
            (message_id, number, address, destination, bulk, status, due, updated, notify)
        VALUES (id, 1, addresses[1], destination, false, status, due, moment, wish);
        INSERT INTO deliveryagent.arrival AS a (xact, destination, due)
        VALUES (pg_current_xact_id(), destination, due)
        ON CONFLICT (xact, destination) DO UPDATE SET due = excluded.due
        WHERE a.due IS NULL OR a.due > excluded.due;
    ELSE
        INSERT INTO {tables}.recipient
            (message_id, number, address, destination, bulk, status, due, updated, notify)
        SELECT id, number, address, deliveryagent.destination_of(address),
            terms.bulk_after > 0 AND number > terms.bulk_after, status, due, moment, wish
        FROM unnest(addresses) WITH ORDINALITY AS one(address, number);
        INSERT INTO deliveryagent.arrival AS a (xact, destination, due)
        SELECT DISTINCT pg_current_xact_id(), deliveryagent.destination_of(address), due
        FROM unnest(addresses) AS address
        ON CONFLICT (xact, destination) DO UPDATE SET due = excluded.due
        WHERE a.due IS NULL OR a.due > excluded.due;
    END IF;

    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);  -- what was taken is on stable storage
    END IF;
    IF NOT held THEN
        PERFORM pg_notify('deliveryagent', 'inflow');
    END IF;
    RETURN deliveryagent.shown_id(id);
END $fn$;

-- The same for a content that is text; it is stored in UTF-8.
CREATE OR REPLACE FUNCTION deliveryagent.enqueue(
    sender text,
    recipients text[],
    content text,
    key text DEFAULT NULL,
    at timestamptz DEFAULT NULL,
    tags jsonb DEFAULT '{}',
    dsn text DEFAULT NULL,
    ret text DEFAULT NULL,
    envid text DEFAULT NULL,
    hold boolean DEFAULT false
) RETURNS text LANGUAGE sql VOLATILE AS $fn$
    SELECT deliveryagent.enqueue(
        sender, recipients, pg_catalog.convert_to(content, 'UTF8'), key, at, tags, dsn, ret, envid, hold)
$fn$;

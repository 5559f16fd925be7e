-- A content in the form it is stored and sent in, as deliveryagent/protocol/arrival.py makes it: CRLF only,
-- a Received field on top, what is missing added, Bcc and the like dropped. Octets are worked on as text of
-- the same number of characters (LATIN1), so that each step is one pass over the whole.
CREATE OR REPLACE FUNCTION deliveryagent.wire_form(
    submitted bytea, sender text, queue_id text, origin text, moment double precision, terms deliveryagent.terms,
    OUT wire bytea, OUT dotted boolean, OUT eightbit boolean, OUT utf8 boolean, OUT long_lines boolean
) LANGUAGE plpgsql STABLE AS $fn$
DECLARE
    -- A header section made of fields only, without blanks between name and colon.
    fields CONSTANT text := '^(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)*$';
    whole text;
    head text;
    body text;
    line text;
    name text;
    stop int;
    kept int := 0;
    names text;  -- of the fields in lower case, each behind a line end and before a colon
    hops int;
    prefix text := '';
    date text := to_char(to_timestamp(floor(moment)) AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS') || ' +0000';
    added text := '';
    trace text := format(E'Received: by %s (deliveryagent, %s)\n\tid %s; %s\n', terms.hostname, origin, queue_id, date);
BEGIN
    IF position('\x00'::bytea IN submitted) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003',
            MESSAGE = 'the message contains a NUL octet, which mail cannot carry',
            HINT = 'Send binary data as an attachment in base64.';
    END IF;
    IF terms.message_size_limit > 0
        AND octet_length(submitted) > terms.message_size_limit + terms.header_size_limit + 1000
    THEN
        PERFORM deliveryagent.refuse_size(terms.message_size_limit);
    END IF;
    whole := convert_from(submitted, 'LATIN1');
    IF strpos(whole, E'\r') > 0 THEN
        whole := replace(replace(whole, E'\r\n', E'\n'), E'\r', ' ');
    END IF;
    IF whole <> '' AND get_byte(submitted, octet_length(submitted) - 1) <> 10 THEN
        whole := whole || E'\n';
    END IF;
    IF starts_with(whole, 'From ') OR starts_with(whole, '>From ') THEN
        line := left(whole, strpos(left(whole, 1000), E'\n'));
        IF line !~ '^[!-9;-~]+[ \t]{0,20}:' THEN
            whole := substr(whole, length(line) + 1);
        END IF;
    END IF;

    -- The header section ends at an empty line, or before a line that is none of it.
    stop := strpos(whole, E'\n\n');
    IF starts_with(whole, E'\n') THEN
        stop := 0;
    ELSIF stop = 0 OR stop > terms.header_size_limit THEN
        stop := terms.header_size_limit + strpos(substr(whole, terms.header_size_limit + 1), E'\n');
    END IF;
    head := left(whole, stop);
    names := lower(E'\n' || head COLLATE "C");
    IF head ~ fields AND (octet_length(head) <= 998 OR head !~ '(?n)^[!-9;-~]{250}') THEN
        kept := length(head);
    ELSIF head <> '' THEN
        names := E'\n';
        FOREACH line IN ARRAY string_to_array(left(head, -1), E'\n') LOOP
            IF kept = 0 OR left(line, 1) NOT IN (' ', E'\t') THEN
                name := substring(left(line, 1100) FROM '^([!-9;-~]+)[ \t]{0,20}:');
                EXIT WHEN name IS NULL OR length(name) > 998;
                names := names || lower(name COLLATE "C") || E':\n';
            END IF;
            kept := kept + length(line) + 1;
        END LOOP;
        head := left(whole, kept);
    END IF;
    IF kept > terms.header_size_limit THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003',
            MESSAGE = format('the header section is larger than %s octets', terms.header_size_limit),
            HINT = 'The limit is queue.header_size_limit.';
    END IF;
    body := CASE kept WHEN 0 THEN whole ELSE right(whole, -kept) END;
    IF starts_with(body, E'\n') THEN
        body := right(body, -1);
    END IF;

    hops := (length(names) - length(replace(names, E'\nreceived:', ''))) / 10;
    IF hops > terms.hopcount_limit THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003',
            MESSAGE = format('the message has passed %s hosts and seems to be in a loop', hops),
            HINT = 'The limit is queue.hopcount_limit; the Received header fields show the way it took.';
    END IF;
    IF strpos(names, 'bcc:') > 0 OR strpos(names, E'\nreturn-path:') > 0 THEN
        head := regexp_replace(head COLLATE "C",
            '^(?:return-path|bcc|resent-bcc)[ \t]{0,20}:[^\n]*\n(?:[ \t][^\n]*\n)*', '', 'gni');
    END IF;
    IF strpos(names, E'\nresent-') > 0 THEN
        prefix := 'Resent-';
    END IF;
    IF strpos(names, format(E'\n%sfrom:', lower(prefix))) = 0 THEN
        added := format(E'%sFrom: %s\n', prefix, coalesce(nullif(sender, ''), 'MAILER-DAEMON@' || terms.hostname));
    END IF;
    IF strpos(names, format(E'\n%sdate:', lower(prefix))) = 0 THEN
        added := format(E'%s%sDate: %s\n', added, prefix, date);
    END IF;
    IF strpos(names, format(E'\n%smessage-id:', lower(prefix))) = 0 THEN
        added := format(E'%s%sMessage-ID: <%s@%s>\n', added, prefix, queue_id, terms.hostname);
    END IF;
    head := convert_from(convert_to(trace, 'UTF8'), 'LATIN1') || head
        || convert_from(convert_to(added, 'UTF8'), 'LATIN1') || E'\n';

    whole := head || body;
    dotted := strpos(whole, E'\n.') > 0;
    long_lines := octet_length(whole) > 998 AND EXISTS (
        SELECT FROM unnest(string_to_array(whole, E'\n')) AS l
        WHERE octet_length(l) > 998 AND length(l) > 998
    );
    whole := replace(whole, E'\n', E'\r\n');
    wire := convert_to(whole, 'LATIN1');
    IF terms.message_size_limit > 0 AND octet_length(wire) > terms.message_size_limit THEN
        PERFORM deliveryagent.refuse_size(terms.message_size_limit);
    END IF;
    eightbit := octet_length(whole) > octet_length(wire);
    utf8 := eightbit AND EXISTS (
        -- A line that is UTF-8 beyond ASCII; other octets above 127 are no reason for SMTPUTF8.
        SELECT FROM unnest(string_to_array(head, E'\n')) AS l
        WHERE octet_length(l) > length(l) AND l ~ '^(?:[\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$'
    );
END $fn$;

CREATE OR REPLACE FUNCTION deliveryagent.refuse_size(size_limit bigint) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'ML003',
        MESSAGE = format('the message is larger than %s octets', size_limit),
        HINT = 'The limit is queue.message_size_limit.';
END $fn$;

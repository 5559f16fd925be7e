-- The recipients in wire form, each once, in the order they are named first.
CREATE OR REPLACE FUNCTION deliveryagent.distinct_addresses(recipients text[], terms deliveryagent.terms)
RETURNS text[] LANGUAGE plpgsql STABLE AS $fn$
DECLARE
    addresses text[];
    one text;
BEGIN
    IF cardinality(recipients) = 1 THEN
        FOREACH one IN ARRAY recipients LOOP
            RETURN ARRAY[deliveryagent.wire_address(one, terms.hostname, 'ML002', 'a recipient')];
        END LOOP;
    END IF;
    SELECT array_agg(address ORDER BY place) INTO addresses
    FROM (
        SELECT deliveryagent.wire_address(each, terms.hostname, 'ML002', 'a recipient') AS address, min(place) AS place
        FROM unnest(recipients) WITH ORDINALITY AS given(each, place)
        GROUP BY 1
    ) AS once;
    IF addresses IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = 'the message has no recipients';
    END IF;
    IF terms.recipient_limit > 0 AND cardinality(addresses) > terms.recipient_limit THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002',
            MESSAGE = format('the message has %s recipients, more than %s', cardinality(addresses), terms.recipient_limit),
            HINT = 'The limit is queue.recipient_limit.';
    END IF;
    RETURN addresses;
END $fn$;

-- The reports a sender wants (RFC 3461 4.1) as the bits of deliveryagent.mail.envelope.Notify.
CREATE OR REPLACE FUNCTION deliveryagent.notify_wish(dsn text) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE AS $fn$
DECLARE
    wish int := 0;
    word text;
BEGIN
    IF coalesce(dsn, '') !~ '\S' THEN
        RETURN 0;
    END IF;
    IF lower(btrim(dsn)) = 'never' THEN
        RETURN 1;
    END IF;
    FOREACH word IN ARRAY string_to_array(lower(dsn), ',') LOOP
        CASE btrim(word, E' \t\n\r\f\v')
            WHEN 'success' THEN wish := wish | 2;
            WHEN 'failure' THEN wish := wish | 4;
            WHEN 'delay' THEN wish := wish | 8;
            ELSE
                RAISE EXCEPTION USING ERRCODE = 'ML004',
                    MESSAGE = format('"%s" is no kind of report', btrim(word)),
                    HINT = 'Write "never", or a list of success, failure and delay.';
        END CASE;
    END LOOP;
    RETURN wish;
END $fn$;

-- Tags as they are stored: a compact JSON object of texts.
CREATE OR REPLACE FUNCTION deliveryagent.checked_tags(tags jsonb) RETURNS text
LANGUAGE plpgsql STABLE AS $fn$
DECLARE
    tag record;
    labels text[] := '{}';
BEGIN
    IF tags IS NULL OR tags = '{}' THEN
        RETURN '{}';
    END IF;
    IF jsonb_typeof(tags) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'the tags are not an object of names and texts';
    END IF;
    FOR tag IN SELECT e.key, e.value, jsonb_typeof(e.value) AS kind, e.value #>> '{}' AS text FROM jsonb_each(tags) AS e LOOP
        IF tag.kind <> 'string' THEN
            RAISE EXCEPTION USING ERRCODE = 'ML004',
                MESSAGE = format('the value of the tag "%s" is not a text', left(tag.key, 40));
        ELSIF tag.key = '' THEN
            RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'a tag without a name';
        END IF;
        PERFORM deliveryagent.check_text(tag.text, format('value of the tag "%s"', left(tag.key, 40)), 256);
        PERFORM deliveryagent.check_text(tag.key, 'name of a tag', 256);
        labels := labels || (to_json(tag.key)::text || ':' || to_json(tag.text)::text);
    END LOOP;
    IF cardinality(labels) > 32 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'more than 32 tags';
    END IF;
    RETURN '{' || array_to_string(labels, ',') || '}';
END $fn$;

-- Refuses a text that is too long or cannot be printed.
CREATE OR REPLACE FUNCTION deliveryagent.check_text(given text, what text, longest int) RETURNS void
LANGUAGE plpgsql STABLE AS $fn$
BEGIN
    IF length(given) > longest THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004',
            MESSAGE = format('the %s has more than %s characters', what, longest);
    ELSIF given ~ '[\u0001-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ue000-\uf8ff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004',
            MESSAGE = format('the %s has characters that cannot be printed', what);
    END IF;
END $fn$;

-- A queue id as people see it: 13 characters of Crockford's base 32.
CREATE OR REPLACE FUNCTION deliveryagent.shown_id(id bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $fn$
    SELECT substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 60)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 55 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 50 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 45 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 40 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 35 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 30 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 25 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 20 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 15 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 10 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id >> 5 & 31)::int + 1, 1)
        || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (id & 31)::int + 1, 1)
$fn$;

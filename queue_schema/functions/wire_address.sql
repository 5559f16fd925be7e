-- One address in wire form, as deliveryagent/mail/address.py reads and writes it. A domain beyond ASCII is
-- refused: its A-label needs tables that the database has not got.
CREATE OR REPLACE FUNCTION deliveryagent.wire_address(
    given text, default_domain text, code text, what text
) RETURNS text LANGUAGE plpgsql STABLE AS $fn$
DECLARE
    dot_string CONSTANT text :=
        '^[^][()<>:;@\\,."\u0001-\u0020\u007f]+(?:\.[^][()<>:;@\\,."\u0001-\u0020\u007f]+)*$';
    path text := given;
    local_part text;
    rest text;
    domain text;
    piece text;
    fault text;
BEGIN
    -- Nearly all addresses there are.
    IF octet_length(given) < 64 AND given ~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)+[A-Za-z]+$' THEN
        RETURN given;
    END IF;
    piece := substring(given FROM '[\u0001-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]');
    IF given IS NULL THEN
        fault := 'it is null';
    ELSIF given = '' THEN
        fault := 'an empty address';
    ELSIF length(given) > 1000 THEN
        fault := 'an address of more than 254 octets';
    ELSIF piece IS NOT NULL THEN
        fault := 'an address cannot contain the character U+' || lpad(upper(to_hex(ascii(piece))), 4, '0');
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = format('%s is not acceptable: %s', what, fault);
    END IF;
    IF starts_with(path, '<') AND right(path, 1) = '>' THEN
        path := substr(path, 2, length(path) - 2);
    END IF;
    IF starts_with(path, '@') THEN
        piece := substring(path FROM '^@(?:\[[^][]*\]|[^][@,:"<> ]+)(?:,@(?:\[[^][]*\]|[^][@,:"<> ]+))*:');
        path := substr(path, coalesce(length(piece), 0) + 1);
    END IF;
    IF starts_with(path, '"') THEN
        piece := substring(path FROM '^"(?:[^"\\]|\\[ -~])*"');
        IF piece IS NULL THEN
            fault := 'has quotes that are not closed or a stray backslash';
        END IF;
        rest := substr(path, length(piece) + 1);
        local_part := regexp_replace(substr(piece, 2, length(piece) - 2), '\\(.)', '\1', 'g');
        IF local_part !~ dot_string THEN
            local_part := '"' || regexp_replace(local_part, '(["\\])', '\\\1', 'g') || '"';
        END IF;
    ELSE
        local_part := split_part(path, '@', 1);
        rest := substr(path, length(local_part) + 1);
        IF local_part = '' THEN
            fault := 'has no local part before the "@"';
        ELSIF local_part ~ '^\.|\.\.|\.$' THEN
            fault := 'has a dot too many in the part before the "@"';
        ELSIF local_part !~ dot_string THEN
            piece := substring(local_part FROM '[][()<>:;@\\,"\u0001-\u0020\u007f]');
            fault := format('has %s in the part before the "@", which needs quotes around it',
                            CASE piece WHEN ' ' THEN 'a space' ELSE '"' || piece || '"' END);
        END IF;
    END IF;
    IF fault IS NULL AND rest <> '' AND NOT starts_with(rest, '@') THEN
        fault := 'has something between the quotes and the "@"';
    END IF;
    IF fault IS NULL THEN
        domain := CASE rest WHEN '' THEN default_domain ELSE substr(rest, 2) END;
        IF domain = '' THEN
            fault := 'has no domain after the "@"';
        ELSIF starts_with(domain, '[') THEN
            domain := deliveryagent.address_literal(domain);
            IF domain IS NULL THEN
                fault := 'has brackets without an IP address: write [192.0.2.1] or [IPv6:2001:db8::1]';
            END IF;
        ELSIF octet_length(domain) > length(domain) THEN
            RAISE EXCEPTION USING ERRCODE = code,
                MESSAGE = format('%s is not acceptable: the domain "%s" is not written in ASCII', what, domain),
                HINT = 'Write it as A-label (xn--...); deliveryagent.enqueue() of Python does so by itself.';
        ELSIF length(domain) > 255 THEN
            fault := 'has a domain of more than 255 characters';
        ELSIF domain ~ '(?:^|\.)(?:\.|$)' THEN
            fault := 'has a domain with an empty part between dots';
        ELSIF domain !~ '^(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.|$))+$' THEN
            fault := 'has an impossible part in its domain';
        ELSIF domain ~ '[^.]{64}' THEN
            fault := 'has a part of more than 63 characters in its domain';
        ELSIF domain ~ '(?:^|\.)[0-9]+$' THEN
            fault := format('has a number for a domain; an IP address is written as "[%s]"', domain);
        ELSIF octet_length(local_part) > 64 THEN
            fault := 'has more than 64 octets before the "@"';
        ELSIF octet_length(local_part) + octet_length(domain) + 1 > 254 THEN
            fault := 'has more than 254 octets';
        END IF;
    END IF;
    IF fault IS NULL AND octet_length(local_part) > 64 THEN
        fault := 'has more than 64 octets before the "@"';
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = code,
            MESSAGE = format('%s is not acceptable: "%s" %s', what, given, fault);
    END IF;
    RETURN local_part || '@' || domain;
END $fn$;

-- An address literal in its shortest writing (RFC 5321 4.1.3), null when it is none.
CREATE OR REPLACE FUNCTION deliveryagent.address_literal(domain text) RETURNS text
LANGUAGE plpgsql STABLE AS $fn$
DECLARE
    inside text := left(substr(domain, 2), -1);
    octets bytea;
    parts text[] := '{}';
    shown text;
    zeros text;
BEGIN
    IF right(domain, 1) <> ']' OR domain = '[' THEN
        RETURN NULL;
    END IF;
    IF inside ~ '^(?:(?:[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])(?:\.|$)){4}$' AND inside !~ '\.$' THEN
        RETURN domain;
    END IF;
    IF inside !~* '^ipv6:[0-9a-f:.]+$' THEN
        RETURN NULL;
    END IF;
    BEGIN
        octets := inet_send(substr(inside, 6)::inet);
    EXCEPTION WHEN invalid_text_representation THEN
        RETURN NULL;
    END;
    IF octet_length(octets) <> 20 THEN
        RETURN NULL;
    END IF;
    FOR place IN 4..18 BY 2 LOOP
        parts := parts || to_hex(get_byte(octets, place) * 256 + get_byte(octets, place + 1));
    END LOOP;
    -- The longest run of zeros, the first of several, is left out.
    shown := ':' || array_to_string(parts, ':') || ':';
    FOR run IN REVERSE 8..2 LOOP
        zeros := repeat('0:', run);
        IF strpos(shown, ':' || zeros) > 0 THEN
            shown := overlay(shown PLACING '::' FROM strpos(shown, ':' || zeros) FOR length(zeros) + 1);
            EXIT;
        END IF;
    END LOOP;
    shown := CASE WHEN starts_with(shown, '::') THEN shown ELSE substr(shown, 2) END;
    RETURN '[IPv6:' || CASE WHEN right(shown, 2) = '::' THEN shown ELSE left(shown, -1) END || ']';
END $fn$;

-- What routing looks up: the domain of an address in wire form in lower case, or its literal.
CREATE OR REPLACE FUNCTION deliveryagent.destination_of(address text) RETURNS text
LANGUAGE sql IMMUTABLE AS $fn$
    SELECT CASE WHEN right(address, 1) = ']'
        THEN regexp_replace(lower(substring(address FROM '[^@]*$') COLLATE "C"), '^\[ipv6:', '[IPv6:')
        ELSE lower(substring(address FROM '[^@]*$') COLLATE "C") END
$fn$;

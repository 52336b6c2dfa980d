# The app of the torture test: its tables and what its writers do.
#
# Four hundred and more records in three objects: customers, prices, and subscriptions, which are
# documents (header and lines) that refer to both. Every record counts its own changes in column n
# and carries the count in its number, so that what a system was told says which change it was; and
# each change writes app.history in its own transaction. So what committed is what the tables say,
# whatever a client was told before its server died.
#
# Slots divisible by three may be deleted and made anew, the others may be referred to. (The order
# of a customer's delete and a subscription's create is no order of one record.) The set of lines of
# a document is fixed when it is made, since Stripe adds items rather than sets them.
package SyncExt::Torture::App;

use strict;
use warnings;

our %slots = (customer => 200, price => 100, subscription => 200);

our $schema = <<'EOF';
CREATE SCHEMA app;
CREATE TABLE app.customer (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), slot integer UNIQUE, n integer NOT NULL DEFAULT 0,
    number text, name text NOT NULL, note text NOT NULL DEFAULT 'none');
CREATE TABLE app.price (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), slot integer UNIQUE, n integer NOT NULL,
    code text NOT NULL, note text NOT NULL DEFAULT 'none');
CREATE TABLE app.subscription (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), slot integer UNIQUE, n integer NOT NULL,
    customer_id uuid NOT NULL REFERENCES app.customer, number text NOT NULL, note text NOT NULL DEFAULT 'none');
CREATE TABLE app.subscription_item (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subscription_id uuid NOT NULL REFERENCES app.subscription ON DELETE CASCADE, line_no integer NOT NULL,
    price_id uuid NOT NULL REFERENCES app.price, quantity integer NOT NULL, UNIQUE (subscription_id, line_no));
CREATE TABLE app.history (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), object text NOT NULL, record_id uuid NOT NULL, op text NOT NULL,
    n integer NOT NULL, number text, applied boolean NOT NULL);

CREATE FUNCTION app.log() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
BEGIN
    INSERT INTO app.history (object, record_id, op, n, number, applied)
    VALUES (TG_TABLE_NAME, (r ->> 'id')::uuid, left(TG_OP, 1), (r ->> 'n')::integer, coalesce(r ->> 'number', r ->> 'code'), sync.is_applying());
    RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON app.customer FOR EACH ROW EXECUTE FUNCTION app.log();
CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON app.price FOR EACH ROW EXECUTE FUNCTION app.log();
CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON app.subscription FOR EACH ROW EXECUTE FUNCTION app.log();

CREATE FUNCTION app.put_customer(s integer, note text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE app.customer c SET n = c.n + 1, number = format('C%s.%s', s, c.n + 1), name = format('Customer %s, %s', s, c.n + 1),
           note = coalesce(put_customer.note, c.note) WHERE c.slot = s;
    IF NOT FOUND THEN
        INSERT INTO app.customer (slot, n, number, name) VALUES (s, 1, format('C%s.1', s), format('Customer %s, 1', s)) ON CONFLICT (slot) DO NOTHING;
    END IF;
END $$;
CREATE FUNCTION app.put_price(s integer, note text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE app.price p SET n = p.n + 1, code = format('P%s.%s', s, p.n + 1), note = coalesce(put_price.note, p.note) WHERE p.slot = s;
    IF NOT FOUND THEN
        INSERT INTO app.price (slot, n, code) VALUES (s, 1, format('P%s.1', s)) ON CONFLICT (slot) DO NOTHING;
    END IF;
END $$;

-- how: what of an existing document changes. pick: which customer and prices a new one has.
CREATE FUNCTION app.put_subscription(s integer, how text, pick integer, note text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    doc uuid;
BEGIN
    SELECT d.id INTO doc FROM app.subscription d WHERE d.slot = s FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO app.subscription (slot, n, customer_id, number)
        SELECT s, 1, c.id, format('S%s.1', s) FROM app.customer c WHERE c.slot % 3 <> 0
         ORDER BY (c.slot * 7919 + pick) % 1009 LIMIT 1 ON CONFLICT (slot) DO NOTHING RETURNING id INTO doc;
        INSERT INTO app.subscription_item (subscription_id, line_no, price_id, quantity)
        SELECT doc, row_number() OVER (ORDER BY p.rank), p.id, 1 + pick % 7
          FROM (SELECT p.id, (p.slot * 6007 + pick) % 1013 AS rank FROM app.price p WHERE p.slot % 3 <> 0 ORDER BY 2 LIMIT 1 + pick % 4) p
         WHERE doc IS NOT NULL;
        IF NOT FOUND THEN
            DELETE FROM app.subscription d WHERE d.id = doc;
        END IF;
        RETURN;
    END IF;
    IF how IN ('line', 'all', 'only_lines') THEN
        UPDATE app.subscription_item i SET quantity = i.quantity % 90 + 1 WHERE i.subscription_id = doc AND (how <> 'line' OR i.line_no = 1);
    END IF;
    IF how = 'all' THEN
        UPDATE app.subscription_item i SET price_id = p.id
          FROM (SELECT p.id FROM app.price p WHERE p.slot % 3 <> 0 ORDER BY (p.slot * 6007 + pick) % 1013 LIMIT 1) p
         WHERE i.subscription_id = doc AND i.line_no = 1
           AND NOT EXISTS (SELECT FROM app.subscription_item j WHERE j.subscription_id = doc AND j.price_id = p.id);
    END IF;
    IF how <> 'only_lines' THEN
        UPDATE app.subscription d SET n = d.n + 1, number = format('S%s.%s', s, d.n + 1), note = coalesce(put_subscription.note, d.note) WHERE d.id = doc;
    END IF;
END $$;
EOF

our $tracking = <<'EOF';
SELECT sync.track('app.customer', 'customer');
SELECT sync.track('app.price', 'price', number_column => 'code');
SELECT sync.track('app.subscription', 'subscription', financial => true, lines => 'app.subscription_item',
    line_parent_columns => '{subscription_id}', line_key_columns => '{line_no}');
EOF

# What one writer does; its choices follow from its seed alone.
sub new
{
	my ($class, $number, $seed) = @_;

	srand($seed * 1000 + $number);
	return bless { number => $number, prepared => 0, open => [], notes => 0 }, $class;
}

sub one_of { return $_[ int rand @_ ] }

sub operation
{
	my ($self) = @_;
	my $object = one_of(qw(customer customer price subscription subscription));
	my $slot = 1 + int rand $slots{$object};
	my $note = rand() < 0.15 ? "'app $self->{number}." . ++$self->{notes} . "'" : 'NULL';
	my $dice = rand();

	return "DELETE FROM app.$object WHERE slot = " . ($slot - $slot % 3) . ';' if $dice < 0.06;
	if ($dice < 0.09)
	{
		my $last = $slot + 5 + int rand 20;
		my $rest = $object eq 'subscription' ? "'header', i, NULL" : 'NULL';
		return "SELECT app.put_$object(i, $rest) FROM generate_series($slot, $last) i WHERE i <= $slots{$object};";
	}
	return "SELECT app.put_$object($slot, $note);" if $object ne 'subscription';
	return sprintf "SELECT app.put_subscription(%d, '%s', %d, %s);", $slot, one_of(qw(header line all only_lines)), int rand 5000, $note;
}

sub operations { my ($self, $n) = @_; return join "\n", map { $self->operation } 1 .. $n }

# Ends prepared transactions that earlier batches left open.
sub settle_prepared
{
	my ($self, $keep) = @_;
	my @lines;

	while (@{ $self->{open} } > $keep)
	{
		my $gid = shift @{ $self->{open} };
		push @lines, (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid';";
	}
	return @lines;
}

sub transaction
{
	my ($self) = @_;
	my $dice = rand();

	return $self->operation if $dice < 0.45;
	if ($dice < 0.65)
	{
		return "BEGIN;\n" . $self->operations(1 + int rand 5) . (rand() < 0.2 ? "\nROLLBACK;" : "\nCOMMIT;");
	}
	if ($dice < 0.80)
	{
		return "BEGIN;\n" . $self->operations(int rand 3) . "\nSAVEPOINT a;\n" . $self->operations(1 + int rand 3)
		  . (rand() < 0.5 ? "\nROLLBACK TO a;\n" : "\nRELEASE a;\n") . $self->operations(int rand 2)
		  . (rand() < 0.1 ? "\nROLLBACK;" : "\nCOMMIT;");
	}
	if ($dice < 0.88)
	{
		return sprintf "BEGIN;\n%s\nSELECT pg_sleep(%.2f);\n%s\nCOMMIT;", $self->operations(1 + int rand 2), 0.2 + rand(rand() < 0.2 ? 6 : 1),
		  $self->operations(int rand 2);
	}
	my $gid = "w$self->{number}-" . ++$self->{prepared};
	push @{ $self->{open} }, $gid;
	return join "\n", "BEGIN;\n" . $self->operations(1 + int rand 2) . "\nPREPARE TRANSACTION '$gid';",
	  $self->settle_prepared(rand() < 0.6 ? 0 : 2);
}

# One session: some transactions, one after the other.
sub batch
{
	my ($self) = @_;
	my @lines = ("SET lock_timeout = '1 s';", 'SET synchronous_commit = ' . one_of(qw(on off off)) . ';');

	push @lines, $self->settle_prepared(2);
	push @lines, $self->transaction foreach 1 .. 2 + int rand 8;
	return join("\n", @lines) . "\n";
}

1;

# Documents of closed accounting periods: held until the period is opened, or sent with a date in the next
# open one when somebody has approved it. Original and posted period are both on record.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => []);
my $node = $hub->node;

# The date that a document is posted with is what the other side knows it by.
$hub->sql(q{
	SELECT sync.register_connector($$ {
		"manifest": 1, "name": "ledger", "version": "1", "hosts": ["127.0.0.1"], "secrets": {"token": {"required": true}},
		"auth": {"type": "bearer", "secret": "token"}, "settle_time": "300 ms",
		"objects": {"invoice": {"push": {"operations": {
			"lookup": {"path": "/rest/customers", "query": {"external_id": "$.id"}, "response": {"items": "$.data", "remote_id": "$.id"}},
			"create": {"method": "POST", "path": "/rest/customers", "body": {"external_id": "$.id", "name": "$.new.posting_date", "email": "$.new.status"},
				"response": {"remote_id": "$.id", "record": "$"}},
			"update": {"method": "PATCH", "path": "/rest/customers/${remote.id}", "body": {"name": "$.new.posting_date", "email": "$.new.status"},
				"response": {"remote_id": "$.id", "record": "$"}}}}}}
	} $$::jsonb);
	SELECT sync.create_canonical_model();
	SELECT sync.track('canonical.invoice', documents => false);
	INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone)
		VALUES ('00000000-0000-4000-8000-0000000000e1', 'DE', 'Aster GmbH', 'DE', 'EUR', 'Europe/Berlin');
	INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date, status)
		SELECT '00000000-0000-4000-8000-0000000000e1', d, d + interval '1 month - 1 day', s
		  FROM (VALUES ('2026-01-01'::date, 'closed'), ('2026-02-01', 'soft_closed'), ('2026-03-01', 'open'), ('2026-04-01', 'open')) p (d, s);
	INSERT INTO canonical.customer (id, kind, name, legal_entity_id)
		VALUES ('00000000-0000-4000-8000-0000000000c1', 'organization', 'Aster', '00000000-0000-4000-8000-0000000000e1');
	CREATE ROLE checker LOGIN; GRANT sync_approver TO checker});
$hub->node->secret('erp', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql("CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'ledger', base_url '" . $hub->sandbox->url . "', rate_limit '1000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (token 'file:token');
	SELECT sync.create_route('erp', 'invoice')");

sub approve
{
	my ($id) = @_;
	my ($status, $out, $err) = $node->psql($hub->database, "SELECT sync.approve($id, 'checked')", extra_params => [ '-U', 'checker' ]);
	return $status == 0 ? $out : $err;
}

# The legal entity is the customer's where the invoice names none.
sub invoice
{
	my ($date) = @_;
	my $id = $hub->new_id;
	$hub->sql("INSERT INTO canonical.invoice (id, customer_id, currency, posting_date, accounting_period, total_amount, status)
		VALUES ('$id', '00000000-0000-4000-8000-0000000000c1', 'EUR', '$date', date_trunc('month', '$date'::date), 100, 'open')");
	return $id;
}

sub held { my ($id) = @_; return $hub->sql("SELECT state, code, message FROM sync.pending WHERE record_id = '$id'") }
sub seen { my ($id) = @_; return join ', ', map { $_->{metadata}{name} } grep { $_->{external_id} eq $id } @{ $hub->sandbox->effects } }

sub asked
{
	my ($id) = @_;
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.approval WHERE record_id = '$id')");
	return $hub->value("SELECT id FROM sync.approval WHERE record_id = '$id'");
}

# ---- hold ----

$hub->sql(q(SELECT sync.set_period_policy('invoice', 'hold', 'month-end')));
my $open = invoice('2026-03-10');
my $closed = invoice('2026-01-31');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$closed')");
$hub->wait_idle;
is(seen($open), '2026-03-10', 'a document of an open period goes by');
is(held($closed), 'held|period_closed|the period from 2026-01-01 to 2026-01-31 is closed', 'one of a closed period is held, and says why');
my $soft = invoice('2026-02-15');
my $approval = asked($soft);
is($hub->value("SELECT policy FROM sync.approval WHERE id = $approval"), 'the period from 2026-02-01 to 2026-02-28 is soft-closed', 'one of a soft-closed period needs approval');
like(approve($approval), qr/approved/, 'and gets it');
$hub->wait_idle;
is(seen($soft), '2026-02-15', 'then it goes, as it is');
$hub->sql("UPDATE canonical.accounting_period SET status = 'open' WHERE start_date = '2026-01-01'; SELECT sync.retry(id) FROM sync.pending");
$hub->poll_until("SELECT NOT EXISTS (SELECT FROM sync.pending)");
$hub->wait_idle;
is(seen($closed), '2026-01-31', 'the held one goes when its period is opened');

# ---- into the next open period ----

$hub->sql(q(UPDATE canonical.accounting_period SET status = 'closed' WHERE start_date = '2026-01-01';
	SELECT sync.set_period_policy('invoice', 'next_open', 'month-end')));
my $moved = invoice('2026-01-20');
$approval = asked($moved);
is($hub->sql("SELECT operation, requested_by = current_user, asked ->> 'original_date', asked ->> 'posted_date' FROM sync.approval WHERE id = $approval"),
	'post_in_next_period|t|2026-01-20|2026-03-01', 'a move into the next open period is asked for');
is(seen($moved), '', 'and nothing sent before');
# The period that was shown must still be the one.
$hub->sql("UPDATE canonical.accounting_period SET status = 'closed' WHERE start_date = '2026-03-01'");
like(approve($approval), qr/the period that begins on 2026-03-01 is not open any more/, 'a period that was closed meanwhile is not posted in');
$hub->sql("UPDATE canonical.accounting_period SET status = 'open' WHERE start_date = '2026-03-01'");

my $offset = $hub->log_size;
$hub->arm('push-claimed', 'kill');
like(approve($approval), qr/approved|server closed the connection|terminating connection/, 'approved, and the hub dies');
$hub->wait_crash('push-claimed', $offset);
$hub->wait_idle;
is(seen($moved), '2026-03-01', 'sent once, with the day that was approved');
is($hub->sql('SELECT original_date, original_period, posted_date, posted_period FROM sync.period_move'), '2026-01-20|2026-01-01|2026-03-01|2026-03-01',
	'original and posted period are on record');
is($hub->value("SELECT posting_date FROM canonical.invoice WHERE id = '$moved'"), '2026-01-20', 'the document keeps its own');
$hub->sql("UPDATE canonical.invoice SET status = 'posted' WHERE id = '$moved'");
$hub->wait_idle;
is(seen($moved), '2026-03-01, 2026-03-01', 'a later change of it goes with the same day, and asks nobody');

my $refused = invoice('2026-01-21');
$approval = asked($refused);
$node->psql($hub->database, "SELECT sync.reject($approval, 'not in March')", extra_params => [ '-U', 'checker' ]);
$hub->wait_idle;
like(held($refused), qr/^held\|period_closed/, 'a move that was refused leaves it held');
is($hub->value(q(SELECT count(*) FROM sync.approval)), 0, 'and nobody is asked again');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'every invariant holds');

$node->stop;
done_testing();

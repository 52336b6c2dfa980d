# Invoices of a billing system, with their lines, come into the canonical model:
# amounts in minor units of any size, days by the legal entity's clock, more
# lines than an invoice shows, values nobody knows, documents that are closed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Cluster;
use SyncExt::Hub;
use SyncExt::Sandbox;
use Test::More;
use Time::HiRes qw(sleep);

my $json = JSON::PP->new->utf8->canonical;

# Half an hour before the end of January in the entity's zone, as seconds since 1970. In
# the future, because a walk hands over to the journal at the time that the answer's Date says.
my %entity = (
	west => { code => 'W', zone => 'America/Los_Angeles', at => 1927697400 },    # UTC-8: 2031-02-01 07:30 UTC
	east => { code => 'E', zone => 'Pacific/Tongatapu', at => 1927621800 });     # UTC+13: 2031-01-31 10:30 UTC
my %sandbox = map { $_ => SyncExt::Sandbox->start(clock_start => $entity{$_}{at} - 3600, seed => ord) } keys %entity;
my $node = SyncExt::Cluster->new('main', database => 'hub', conf =>
	"sync_ext.allowed_hosts = '" . join(', ', map { 'http://127.0.0.1:' . $sandbox{$_}->port } sort keys %sandbox) . "'\n");
my $shipped = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../connectors/stripe.json");

$node->sql('SELECT sync.adopt_cluster()');
$node->sql("SELECT sync.create_canonical_model();
	SELECT sync.register_connector(\$manifest\$$shipped\$manifest\$::jsonb);
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{customer,product,price,subscription,invoice}'::text[]) t");
foreach my $system (sort keys %entity)
{
	my $entity = $entity{$system};

	$node->secret($system, 'api_key', 'sk_test_sandbox');
	$node->sql("INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone)
			VALUES ('$entity->{code}', '$system', 'US', 'USD', '$entity->{zone}');
		CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe', base_url '" . $sandbox{$system}->url . "',
			legal_entity '$entity->{code}', rate_limit '1000/s');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (api_key 'file:api_key');
		SELECT sync.create_stream('$system', o) FROM unnest('{customer,invoice}'::text[]) o");
}
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));

END { diag($node->sql('SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT system, object, last_error FROM sync.stream_status')) if $? && $node && $node->{_pid} }

sub pull
{
	my ($system, @objects) = @_;

	$node->sql("SELECT sync.request_pull('$system', o) FROM unnest('{" . join(',', @objects ? @objects : qw(customer invoice)) . "}'::text[]) o");
	is($node->wait_idle(60), 't', "$system is read") or diag($node->sql('SELECT * FROM sync.stream_status; SELECT * FROM sync.health()'));
	return;
}

sub stripe
{
	my ($system, $path, $form) = @_;
	my ($status, $body) = $sandbox{$system}->stripe(POST => "/v1/$path", $form);

	die "$path: $status " . $json->encode($body // {}) if $status != 200;
	return $body;
}

sub customer { my ($system, $name) = @_; return stripe($system, 'customers', { name => $name, email => lc($name) . '@example.com' })->{id} }

# A draft with so many lines, of 1 and more of the smallest unit.
sub draft
{
	my ($system, $customer, $currency, @amounts) = @_;
	my $invoice = stripe($system, 'invoices', { customer => $customer, currency => $currency, auto_advance => 'false' });
	my $n = 0;

	stripe($system, 'invoiceitems', { customer => $customer, invoice => $invoice->{id}, currency => $currency, amount => $_, description => 'Line ' . ++$n })
	  foreach @amounts;
	return $invoice->{id};
}

sub finalize { my ($system, $id) = @_; return stripe($system, "invoices/$id/finalize") }

sub invoice
{
	my ($system, $id, $columns) = @_;
	return $node->sql("SELECT $columns FROM canonical.invoice i JOIN sync.external_id x ON x.record_id = i.id::text
		JOIN sync.system y ON y.id = x.system_id AND y.name = '$system' WHERE x.remote_id = '$id'");
}

sub lines
{
	my ($system, $id) = @_;
	return $node->sql("SELECT l.line_no, l.description, l.net_amount FROM canonical.invoice_line l
		JOIN sync.external_id x ON x.record_id = l.invoice_id::text
		JOIN sync.system y ON y.id = x.system_id AND y.name = '$system' WHERE x.remote_id = '$id' ORDER BY l.line_no");
}

# ---- days ----

foreach my $system (sort keys %entity)
{
	my $customer = customer($system, 'Edge');

	$sandbox{$system}->clock(set => $entity{$system}{at}, freeze => 1);
	my $last = finalize($system, draft($system, $customer, 'usd', 100))->{id};
	$sandbox{$system}->clock(set => $entity{$system}{at} + 3600, freeze => 1);
	my $first = finalize($system, draft($system, $customer, 'usd', 100))->{id};
	$sandbox{$system}->clock(freeze => 0);
	pull($system);
	is(invoice($system, $last, 'i.issue_date'), '2031-01-31', "$system: 23:30 on the last day of the month is that day");
	is(invoice($system, $first, 'i.issue_date'), '2031-02-01', "$system: an hour later is the next month");
	is(invoice($system, $last, "(SELECT e.code FROM canonical.legal_entity e WHERE e.id = i.legal_entity_id)"), $entity{$system}{code},
		"$system: the entity is the system's");
}

# ---- money ----

my $west = $sandbox{west};
my $payer = customer('west', 'Payer');
my %expected = (usd => '12.34|12.34|USD', jpy => '1234|1234|JPY', bhd => '1.234|1.234|BHD', isk => '1234.00|1234.00|ISK');

# ISK has no minor units, and Stripe counts hundredths of it all the same.
foreach my $currency (sort keys %expected)
{
	my $id = eval { finalize('west', draft('west', $payer, $currency, $currency eq 'isk' ? 123400 : 1234))->{id} };

	next if !defined $id;    # a currency that the sandbox does not know
	pull('west');
	is(invoice('west', $id, 'i.total_amount, i.amount_due, i.currency'), $expected{$currency}, "$currency in minor units");
}
is($node->sql(q(SELECT DISTINCT i.total_amount = (SELECT sum(l.net_amount + l.tax_amount) FROM canonical.invoice_line l WHERE l.invoice_id = i.id) FROM canonical.invoice i)), 't',
	'lines add up to their invoices');

# ---- more lines than an invoice shows ----

my $long = draft('west', $payer, 'usd', 1 .. 134);
finalize('west', $long);
pull('west');
my @line = split /\n/, lines('west', $long);
is(scalar @line, 134, 'an invoice of 134 lines is read in parts and written whole');
is_deeply([ map { (split /\|/)[0] } @line ], [ 1 .. 134 ], 'each line in its place');
is(invoice('west', $long, 'i.total_amount'), '90.45', 'with its total');
is($node->value(q(SELECT count(*) FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id AND o.name = 'invoice' WHERE jsonb_array_length(e.body -> 'lines') = 134)), 1,
	'in one event');

# A page of lines that does not come leaves the invoice and the cursor alone.
my $partial = draft('west', $payer, 'usd', 1 .. 25);
$west->fault(kind => 'truncated', match => { path => "/v1/invoices/$partial/lines" });
finalize('west', $partial);
$node->sql(q(SELECT sync.request_pull('west', 'invoice')));
$node->poll_until(q(SELECT failures > 0 FROM sync.stream_status WHERE system = 'west' AND object = 'invoice'));
is(lines('west', $partial), '', 'half an invoice is none');
pull('west');
is(scalar(split /\n/, lines('west', $partial)), 25, 'the whole of it comes later');

# ---- lines that change ----

my $changing = draft('west', $payer, 'usd', 100, 200, 300);
pull('west');
my $events = $node->value('SELECT last_value FROM sync.outbox_seq');
stripe('west', 'invoiceitems', { customer => $payer, invoice => $changing, currency => 'usd', amount => 50, description => 'Line 4' });
pull('west');
is(join(' ', map { (split /\|/)[1] . '=' . (split /\|/)[2] } split /\n/, lines('west', $changing)), 'Line 1=1.00 Line 2=2.00 Line 3=3.00 Line 4=0.50', 'a line that came');
cmp_ok($node->value("SELECT count(*) FROM sync.outbox WHERE seq > $events"), '<=', 2, 'in no more events than changes of the document');

# ---- only what differs ----

my $shared = customer('west', 'Shared');
pull('west');
$node->sql("UPDATE canonical.customer SET name = 'Ours', number = 'K-1' WHERE name = 'Shared'");
stripe('west', "customers/$shared", { email => 'new@example.com' });
pull('west');
is($node->sql(q(SELECT name, number, billing_email FROM canonical.customer WHERE number = 'K-1')), 'Ours|K-1|new@example.com',
	'what an app changed meanwhile stays, what they changed comes');
my $same = draft('west', $payer, 'usd', 700);
pull('west');
$node->sql(q(UPDATE canonical.invoice SET po_number = 'PO 7' WHERE total_amount = 7.00 AND status = 'draft'));
finalize('west', $same);
pull('west');
is(invoice('west', $same, 'i.status, i.po_number'), 'open|PO 7', 'nor is a column touched that they have nothing to say about');

# ---- values that nobody knows ----

my $unknown = $json->decode($shipped);
delete $unknown->{enums}{invoice_status}{pull}{uncollectible};
$unknown->{version} .= '-test';
my $text = $json->encode($unknown);
$node->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
my $written_off = finalize('west', draft('west', $payer, 'usd', 900))->{id};
pull('west');
stripe('west', "invoices/$written_off/mark_uncollectible");
my $neighbour = finalize('west', draft('west', $payer, 'usd', 901))->{id};
pull('west');
is(invoice('west', $written_off, 'i.status'), 'open', 'an unknown status is not guessed');
is(invoice('west', $neighbour, 'i.status'), 'open', 'and holds up nobody');
like($node->sql(qq(SELECT remote_id, state, reason FROM sync.inbox_status)), qr/^\Q$written_off\E\|failed\|.*"uncollectible" is not in enum/,
	'it waits in the inbox');
$node->sql("SELECT sync.register_connector(\$manifest\$$shipped\$manifest\$::jsonb)");
$node->poll_until('SELECT count(*) = 0 FROM sync.inbox_status', 30);
is(invoice('west', $written_off, 'i.status'), 'uncollectible', 'until the connector knows it');

# ---- closed documents ----

my $closed = draft('west', $payer, 'usd', 1000);
pull('west');
$node->sql(q(UPDATE canonical.invoice SET posting_status = 'posted' WHERE total_amount = 10.00));
my ($status, undef, $error) = $node->psql('hub', q(BEGIN; UPDATE canonical.invoice SET total_amount = 11, net_amount = 11 WHERE total_amount = 10.00; COMMIT));
like($error, qr/is posted and cannot be changed/, 'an app cannot change a posted invoice');
stripe('west', 'invoiceitems', { customer => $payer, invoice => $closed, currency => 'usd', amount => 500, description => 'One more' });
finalize('west', $closed);
pull('west');
is(invoice('west', $closed, 'i.total_amount, i.status, i.posting_status'), '15.00|open|posted', 'the guard lets the pull pass');
is(scalar(split /\n/, lines('west', $closed)), 2, 'with its lines');

# ---- a parent that comes later, though nobody reads it by id ----

my $late = customer('east', 'Late');
$sandbox{east}->fault(kind => 'status', status => 500, body => '{}', times => -1, match => { path => "/v1/customers/$late" });
my $orphan = finalize('east', draft('east', $late, 'usd', 100))->{id};
pull('east', 'invoice');
is($node->sql(q(SELECT object, state, wait_object FROM sync.inbox_status WHERE object = 'invoice')), 'invoice|waiting|customer', 'an invoice waits for its customer');
pull('east', 'customer');
$node->poll_until(q(SELECT count(*) = 0 FROM sync.inbox_status WHERE object = 'invoice'), 30);
is(invoice('east', $orphan, 'i.total_amount'), '1.00', 'and goes in when that has come');

is($node->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');
$node->stop;
done_testing();

# One change of a subscription, through billing and the books: who wrote it, which requests carried it, what
# the systems made of it and what followed, in one trace; correlation ids go through pushes and pulls by
# themselves, through a crash, and are found after the events themselves are gone.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Cluster;
use SyncExt::Sandbox;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my %sandbox = map { $_ => SyncExt::Sandbox->start } qw(billing erp);
my $node = SyncExt::Cluster->new('main', database => 'hub', conf =>
	"restart_after_crash = on\nsync_ext.poll_interval = 500\nsync_ext.allowed_hosts = '"
	  . join(', ', map { 'http://127.0.0.1:' . $sandbox{$_}->port } sort keys %sandbox) . "'\n");

# An object that is pushed by one body, or pulled by one mapping, in the sandbox's plain style.
sub pushed
{
	my ($collection, $body) = @_;
	my %answer = (response => { remote_id => '$.id', record => '$' });

	return { operations => {
		lookup => { path => "/rest/$collection", query => { external_id => '$.id' }, response => { items => '$.data', remote_id => '$.id' } },
		create => { method => 'POST', path => "/rest/$collection", body => { external_id => '$.id', %$body }, %answer },
		update => { method => 'PATCH', path => "/rest/$collection/\${remote.id}", body => $body, %answer } } };
}

sub pulled
{
	my ($collection, $fields, $lines) = @_;

	return { list => { path => "/rest/$collection", query => { updated_since => '$cursor.since', page => '$cursor.token' }, items => '$.data',
			order => 'oldest_first', next => { token => '$.next_page' } },
		cursor => { time => '$.updated_at', lookback => '2 s', resolution => '1 ms' },
		record => { id => '$.id', number => '$.number', our_id => '$.external_id', version => '$.version', version_at => '$.updated_at' },
		fields => $fields, ($lines ? (lines => { items => '$.lines', fields => $lines }) : ()), on_missing => 'insert' };
}

my $subscription = { number => '$.new.number', mrr => '$.new.mrr', customer => { '$' => '$.new.customer_id', ref => 'customer' } };
my $amendment = { kind => '$.new.kind', subscription => { '$' => '$.new.subscription_id', ref => 'subscription' } };
my $invoice = { number => '$.number', currency => '$.currency', issue_date => '$.day', status => '$.status', total_amount => '$.total',
	net_amount => '$.total', tax_amount => 0, amount_due => '$.total',
	customer_id => { '$' => '$.customer', ref => 'customer' }, subscription_id => { '$' => '$.subscription', ref => 'subscription' } };
my $entry = { number => '$.number', currency => '$.currency', posting_date => '$.day', status => 'draft', source_object => 'invoice',
	source_id => { '$' => '$.invoice', ref => 'invoice' } };
my $manifest = $json->encode({
	manifest => 1, name => 'chain', version => '1', hosts => ['127.0.0.1'], auth => { type => 'none' }, settle_time => '300 ms',
	error => { code => '$.code', message => '$.message', request_id => '$headers."x-request-id"' },
	headers => { 'X-Correlation-Id' => '$.event.correlation_id', 'X-Event-Id' => '$.event.id' },
	objects => {
		customer => { push => pushed('customers', { name => '$.new.name' }) },
		subscription => { push => pushed('subscriptions', $subscription) },
		amendment => { push => pushed('amendments', $amendment) },
		invoice => { push => pushed('invoices', { number => '$.new.number', total => '$.new.total_amount' }),
			pull => pulled('invoices', $invoice, { line_no => '$.no', net_amount => '$.amount', unit_price => '$.amount', quantity => 1 }) },
		gl_entry => { pull => pulled('journals', $entry, { line_no => '$.no', account_code => '$.account', debit => '$.debit', credit => '$.credit' }) } } });

$node->sql('SELECT sync.adopt_cluster()');
$node->sql("SELECT sync.create_canonical_model();
	SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb);
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{customer,subscription,amendment,invoice,gl_entry,revenue_schedule,entitlement}'::text[]) t");
$node->sql("CREATE SERVER $_ FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'chain', base_url '" . $sandbox{$_}->url . "', rate_limit '1000/s')")
  foreach sort keys %sandbox;
$node->sql(q{SELECT sync.create_route('billing', o) FROM unnest('{customer,subscription,amendment}'::text[]) o;
	SELECT sync.create_route('erp', o) FROM unnest('{customer,invoice}'::text[]) o;
	SELECT sync.create_stream('billing', 'invoice', '1 day'), sync.create_stream('erp', 'gl_entry', '1 day')});

sub wait_idle { is($node->wait_idle(60), 't', $_[0]) or diag($node->sql('TABLE sync._unfinished; SELECT * FROM sync.inbox_status; SELECT * FROM sync.stream_status')); return }
sub pull { my ($system, $object) = @_; $node->sql("SELECT sync.request_pull('$system', '$object')"); wait_idle("$object is read from $system"); is($node->sql('SELECT reason FROM sync.inbox_status'), '', '… and applied'); return }
sub remote { return $node->value("SELECT sync.remote_id('$_[0]', '$_[1]', '$_[2]')") }

# Requests of a system that wrote something, by path: what its headers said.
sub header
{
	my ($system, $method, $path, $name) = @_;
	my @said = map { $_->{headers}{ lc $name } // 'none' } grep { $_->{method} eq $method && $_->{path} =~ $path } @{ $sandbox{$system}->requests(limit => 1000) };

	return $said[-1];
}
my ($customer, $sub, $amend) = map { "00000000-0000-4000-8000-00000000000$_" } qw(c b a);

# ---- what nobody gave an id is followed by its own ----
$node->sql("INSERT INTO canonical.customer (id, number, name) VALUES ('$customer', 'C-1', 'Example Ltd');
	INSERT INTO canonical.subscription (id, customer_id, number, status, currency, mrr) VALUES ('$sub', '$customer', 'S-1', 'active', 'EUR', 100)");
wait_idle('customer and subscription are there');
my $mark = $node->value("SELECT left(hub_id::text, 8) || '-' || incarnation || '-' FROM sync.hub");
my $created = $node->value("SELECT '$mark' || seq FROM sync.event WHERE object = 'subscription' AND operation = 'insert'");
is(header('billing', 'POST', qr{^/rest/subscriptions}, 'X-Correlation-Id'), $created, 'a request tells the id of its event as correlation id');
is($node->value("SELECT string_agg(kind || ' ' || what, '; ' ORDER BY at) FROM sync.trace('$created') WHERE kind IN ('event', 'attempt')"),
	'event created; attempt create POST /rest/subscriptions: done', '… by which it is traced, with its attempt');

# ---- the change ----
$node->sql("BEGIN;
	SET LOCAL sync_ext.correlation_id = 'CHANGE-7'; SET LOCAL sync_ext.actor = 'ada'; SET LOCAL sync_ext.reason = 'asked by phone';
	INSERT INTO canonical.amendment (id, subscription_id, kind, status, delta_mrr) VALUES ('$amend', '$sub', 'upgrade', 'applied', 20);
	UPDATE canonical.subscription SET mrr = 120 WHERE id = '$sub';
	COMMIT");
wait_idle('the change is in billing');
is(header('billing', 'PATCH', qr{^/rest/subscriptions}, 'X-Correlation-Id'), 'CHANGE-7', 'an application\'s correlation id goes with the request');
my $changed = $node->value("SELECT '$mark' || seq FROM sync.event WHERE object = 'subscription' AND operation = 'update'");
is(header('billing', 'PATCH', qr{^/rest/subscriptions}, 'X-Event-Id'), $changed, '… beside the event\'s own');

# ---- billing makes an invoice of it ----
my $in = $sandbox{billing}->rest(POST => '/invoices', { number => 'INV-1', total => 120, currency => 'EUR', day => '2026-11-01', status => 'open',
	customer => remote('customer', $customer, 'billing'), subscription => remote('subscription', $sub, 'billing'), lines => [ { no => 1, amount => 120 } ] });
$sandbox{erp}->fault(kind => 'status', status => 500, match => { path => '/rest/invoices', method => 'POST' });
pull('billing', 'invoice');
my $inv = $node->value("SELECT id FROM canonical.invoice WHERE number = 'INV-1'");
is($node->value("SELECT context ->> 'correlation_id' || ' ' || (context ->> 'causation_id') FROM sync.event WHERE object = 'invoice' AND origin = 'billing'"),
	"CHANGE-7 $changed", 'what billing made after our change carries its ids, through the subscription that it refers to');
is(header('erp', 'POST', qr{^/rest/invoices}, 'X-Correlation-Id'), 'CHANGE-7', '… and takes them along to the ERP');

# ---- the ERP posts it, after a crash of the hub ----
$node->kill9_worker;
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));
$node->poll_until("SELECT sync.remote_id('invoice', '$inv', 'erp') IS NOT NULL");
$sandbox{erp}->rest(POST => '/journals', { number => 'J-1', currency => 'EUR', day => '2026-11-01', invoice => remote('invoice', $inv, 'erp'),
	lines => [ { no => 1, account => '1200', debit => 120, credit => 0 }, { no => 2, account => '4000', debit => 0, credit => 120 } ] });
pull('erp', 'gl_entry');
my $from_billing = $node->value("SELECT '$mark' || seq FROM sync.event WHERE object = 'invoice' AND origin = 'billing'");
is($node->value("SELECT context ->> 'correlation_id' || ' ' || (context ->> 'causation_id') FROM sync.event WHERE object = 'gl_entry' AND origin = 'erp'"),
	"CHANGE-7 $from_billing", 'the journal follows from the invoice that we pushed, which followed from the change');

# ---- a later change over there belongs to the same business ----
$sandbox{billing}->rest(PATCH => "/invoices/$in->{id}", { status => 'paid' });
pull('billing', 'invoice');
is($node->value("SELECT string_agg(DISTINCT context ->> 'correlation_id', ',') FROM sync.event WHERE object = 'invoice'"), 'CHANGE-7',
	'what billing does to the invoice later is put down to the same');
$node->sql("INSERT INTO canonical.revenue_schedule (id, invoice_line_id, method, currency, total_amount, start_date, end_date, standard)
	SELECT '00000000-0000-4000-8000-0000000000f1', id, 'straight_line', 'EUR', 120, '2026-11-01', '2026-11-30', 'IFRS15' FROM canonical.invoice_line;
	INSERT INTO canonical.entitlement (id, subscription_id, customer_id, feature_code, status) VALUES ('00000000-0000-4000-8000-0000000000e1', '$sub', '$customer', 'seats', 'active')");
wait_idle('all is quiet');

# ---- read ----
my $path = "SELECT object || ' ' || coalesce(system, '-') || ' ' || kind || ' ' || depth FROM sync.trace('CHANGE-7') WHERE kind IN ('event', 'attempt') ORDER BY at";
is_deeply([ split /\n/, $node->sql($path) ], [
	'amendment - event 0', 'subscription - event 0', (sort('amendment billing attempt 0', 'subscription billing attempt 0')),
	# tried, looked up twice, tried again
	'invoice billing event 1', ('invoice erp attempt 1') x 4, 'gl_entry erp event 2',
	# the status of the invoice follows from the change of the subscription, as the invoice did
	'invoice billing event 1', 'invoice erp attempt 1' ], 'the trace, in order, each as deep as causes stand before it')
  or diag($node->sql('SELECT * FROM sync.trace(\'CHANGE-7\')'));
is_deeply([ split /\n/, $node->sql("SELECT object || ' ' || coalesce(record_number, '-') || coalesce(' in ' || system, '') || ' ' || depth
		FROM sync.lineage('amendment', '$amend') WHERE kind = 'caused' ORDER BY depth, 1") ],
	[ 'subscription S-1 in billing 1', 'entitlement - 2', 'invoice INV-1 in billing 2', 'invoice INV-1 in erp 2', 'gl_entry J-1 in erp 3', 'revenue_schedule - 3' ],
	'what the amendment caused, through every system');
is($node->value("SELECT path FROM sync.lineage('amendment', '$amend') WHERE object = 'gl_entry'"),
	"amendment $amend > subscription S-1 > invoice INV-1 > gl_entry J-1", '… with the way there');
is($node->value("SELECT string_agg(status::text, ' ' ORDER BY at) || ' ' || bool_and(latency_ms > 0) || ' ' || count(request_id) || ' ' || bool_and(remote_id = sync.remote_id('invoice', '$inv', 'erp'))
		FROM sync.lineage('invoice', 'INV-1') WHERE kind = 'attempt'"),
	'500 200 200 201 200 true 4 true', 'each attempt with its status, its latency and the vendor\'s id of it');
is($node->value("SELECT string_agg(what || coalesce(' by ' || actor, '') || coalesce(', ' || reason, ''), '; ' ORDER BY at)
		FROM sync.lineage('subscription', 'S-1') WHERE kind = 'event'"),
	'created; changed mrr by ada, asked by phone', 'who wrote the row, and why');
is($node->value("SELECT string_agg(what, '; ' ORDER BY at) FROM sync.lineage('invoice', 'INV-1') WHERE kind = 'remote' AND system = 'billing'"),
	'known; changed status', 'what billing said of the invoice, as it became known');
is($node->value("SELECT string_agg((fields ->> 'total_amount') || ' ' || (h.record_id = '$inv'), '; ' ORDER BY at) FROM sync.mirror_history h
		JOIN sync.system y ON y.id = h.system_id AND y.name = 'erp' JOIN sync.object o ON o.id = h.object_id AND o.name = 'invoice'"),
	'120 true', '… and what our pushes made known in the ERP: once, for the second changed nothing of it');
is($node->value("SELECT string_agg(object || ' ' || coalesce(record_number, '-'), ', ' ORDER BY depth, object DESC) FROM sync.lineage('gl_entry', 'J-1') WHERE kind = 'caused by' AND system IS DISTINCT FROM 'erp'"),
	'amendment -, subscription S-1, customer C-1, invoice INV-1', 'and back: what the journal follows from');
like($node->sql("SELECT * FROM sync.lineage_tree('amendment', '$amend')"), qr/
	^amendment\ $amend\ \ upgrade\ 20\ applied\ \[billing:\ [^\]]+\]\n
	│\ \ [-0-9]+\ [:0-9]+\ event\ +created\ by\ ada\ because\ asked\ by\ phone\n
	│\ \ .*\ attempt\ +billing:\ create\ POST\ \/rest\/amendments:\ done\ \(2\d\d,\ [\d.]+\ ms,\ request\ [^)]+\)\ by\ ada\ because\ asked\ by\ phone\n
	(?s:.*)└─\ subscription\ S-1\ \ 120\ EUR\ active\ \[billing:\ [^\]]+\]\n
	\ \ \ ├─\ invoice\ INV-1\ \ 120(?:\.00)?\ EUR\ paid\ \[billing:\ INV-1;\ erp:\ [^\]]+\]\n
	\ \ \ │\ \ ├─\ gl_entry\ J-1\ \ EUR\ draft\ \[erp:\ J-1\]\n
	\ \ \ │\ \ └─\ revenue_schedule\ [-0-9a-f]+\ \ 120(?:\.00)?\ EUR\ planned\n
	\ \ \ └─\ entitlement\ [-0-9a-f]+\ \ seats\ active$/x, 'the tree that a person reads');

# ---- after the events have gone with their retention, the attempts still tell ----
$node->stop;
$node->append_conf('postgresql.conf', 'sync_ext.enabled = off');
$node->start;
$node->sql('TRUNCATE sync.outbox');
is($node->value("SELECT string_agg(DISTINCT object, ',' ORDER BY object) FROM sync.trace('CHANGE-7') WHERE kind = 'attempt'"), 'amendment,invoice,subscription',
	'an old trace is found by its attempts');
is($node->value("SELECT DISTINCT actor || ', ' || reason FROM sync.trace('CHANGE-7') WHERE kind = 'attempt' AND object = 'subscription'"), 'ada, asked by phone',
	'… which know who it was and why');
is($node->sql("SELECT invariant, detail FROM sync.check_invariants() WHERE invariant <> 'outbox_complete'"), '', 'every invariant holds');
done_testing();

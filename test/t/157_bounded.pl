# Nothing grows without bound: memory with answers that do not end and with many
# dead letters, the log with a route that stands still, history with time.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm'],
	options => { crm => { max_in_flight => 4, timeout => '20 s', rate_limit => '10000/s' } });
my $node = $hub->node;
my $sandbox = $hub->sandbox;

# A line of the hub's /proc/PID/status, in MB: RssAnon now, VmHWM the highest since reset_peak.
sub memory
{
	my ($line) = @_;
	my $status = PostgreSQL::Test::Utils::slurp_file('/proc/' . $hub->hub_pid . '/status');

	$status =~ /^$line:\s+(\d+) kB/m or die "no $line";
	return int($1 / 1024);
}

sub reset_peak
{
	PostgreSQL::Test::Utils::append_to_file('/proc/' . $hub->hub_pid . '/clear_refs', "5\n");
	return;
}

# ---- answers of 1 GB, and without end ----

$hub->write('warm');
$hub->wait_idle;
reset_peak();
my $pid = $hub->hub_pid;
my $before = memory('VmHWM');
my %create = (match => { path => '/rest/customers', method => 'POST' });
$sandbox->fault(kind => 'huge', bytes => 1 << 30, times => 4, %create);
$sandbox->fault(kind => 'infinite', times => 4, %create);
$hub->write("large $_") foreach 1 .. 8;
$hub->wait_idle;
my @hits = map { $_->{hits} } @{ $sandbox->faults };
is("@hits", '4 4', 'eight answers were larger than anybody wants');
is_deeply([ $hub->broken ], [], 'each delivery has ended, in order and once');
cmp_ok($hub->value(q(SELECT count(*) FROM sync.outcome WHERE code = 'too_large' AND outcome = 'ambiguous')), '>=', 8,
	'after an attempt that is called what it was');
cmp_ok(memory('VmHWM') - $before, '<', 160, 'four in flight took less than 160 MB at any time')
  or diag(memory('VmHWM') . " MB, before $before MB");
$sandbox->clear_faults;

$sandbox->fault(kind => 'infinite', times => 2, match => { path => '/rest/customers', method => 'GET' });
$hub->sql("SELECT sync.create_stream('crm', 'customer', '1 s')");
$hub->poll_until(q(SELECT bool_and(finished_at IS NOT NULL AND failures = 0) FROM sync.stream_status));
is($sandbox->faults->[0]{hits}, 2, 'pages without end fail');
cmp_ok(memory('VmHWM') - $before, '<', 160, 'nor do they take more memory');
is($hub->hub_pid, $pid, 'it is the same process all the while');
$hub->sql("SELECT sync.drop_stream('crm', 'customer')");
$sandbox->clear_faults;

# ---- dead letters of 15 kB: 2000 that die, which together would be 30 MB, and 10 000 that are found ----

# What the process has from the system counts what is free in it, too; its own account does not.
sub settled_memory
{
	my ($name) = @_;
	my $offset = $hub->log_size;
	my $mb;

	$hub->sql('SELECT pg_log_backend_memory_contexts(' . $hub->hub_pid . ')');
	$node->wait_for_log(qr/Grand total: \d+ bytes/, $offset);
	($mb) = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset) =~ /Grand total: (\d+) bytes/;
	$mb = int($mb / 1024 / 1024);
	cmp_ok($mb, '<', 20, "$name: the hub holds $mb MB");
	note('RssAnon ' . memory('RssAnon') . ' MB');
	return;
}

$sandbox->fault(kind => 'status', status => 422, body => '{"message": "no"}', times => -1, match => { path => '/rest/customers', method => 'POST' });
$hub->sql(q(ALTER SERVER crm OPTIONS (SET max_in_flight '64')));
$hub->sql(q(INSERT INTO app.customer (name, billing_address)
	SELECT 'dead ' || i, jsonb_build_object('line1', (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 470) j))
	FROM generate_series(1, 2000) i));
$hub->poll_until(q(SELECT count(*) = 2000 FROM sync.pending WHERE state = 'dead'));
settled_memory('2000 dead letters');
my $columns = $hub->value(q(SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
	WHERE attrelid = 'sync.pending'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('id', 'seq', 'record_id')));
$hub->sql("INSERT INTO sync.pending (seq, record_id, $columns) SELECT -seq - n * 1000000, record_id || n, $columns
	FROM sync.pending CROSS JOIN generate_series(1, 4) n");
$hub->sql('SELECT pg_terminate_backend(pid) FROM sync.worker WHERE database = current_database() AND pid = ' . $hub->hub_pid);
$hub->wait_until('another hub', sub { ($hub->hub_pid // $pid) ne $pid });
$hub->wait_running;
$sandbox->clear_faults;
my $letter = $hub->value(q(SELECT min(delivery) FROM sync.dead_letter WHERE delivery !~ '-'));
$hub->sql("SELECT sync.retry('$letter')");
$hub->poll_until("SELECT NOT EXISTS (SELECT FROM sync.dead_letter WHERE delivery = '$letter')");
pass('one of them can be retried after a restart');
settled_memory('a restart with 10 000');
$hub->sql('DELETE FROM sync.pending WHERE seq < 0');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'no invariant is broken');
$hub->sql(q(SELECT count(sync.discard(delivery, 'test')) FROM sync.dead_letter));
$hub->poll_until('SELECT NOT EXISTS (SELECT FROM sync.pending)');
$hub->wait_idle;

# ---- a route that stands still ----

my $id = $hub->write('kept for now');
$hub->wait_idle;
$hub->sql(q(SELECT sync.pause('crm')));
$hub->rename($id, 'lost to max_lag');
$hub->poll_until(q(SELECT NOT EXISTS (SELECT FROM sync.system_status WHERE in_flight > 0)));

# All of the log was written ten days ago.
$hub->sql(q(UPDATE sync.outbox SET at = at - interval '10 days'));
my $events = q(SELECT count(*) FROM sync.outbox);
my $state = q(SELECT state FROM sync.route);
$hub->sql(q(SELECT sync._upkeep_history(); SELECT sync._upkeep()));
is($hub->value($state), 'needs_backfill', 'a route past its max_lag needs a backfill');
like($hub->sql(q(SELECT "check", status FROM sync.health() WHERE status <> 'ok')), qr/^notice lag:customer_to_crm\|error$/m, 'and health() says so');
is($hub->value($events), 0, 'what it kept of the log is gone');

$hub->sql(q(UPDATE sync.route SET state = 'active'; UPDATE sync.object SET financial = true));
$hub->sql(q(SELECT sync.resume('crm')));
$hub->wait_idle;
$hub->sql(q(SELECT sync.pause('crm')));
$hub->rename($id, 'money is never lost');
$hub->sql(q(UPDATE sync.outbox SET at = at - interval '10 days'));
$hub->sql(q(SELECT sync._upkeep_history(); SELECT sync._upkeep()));
is($hub->value($state), 'active', 'a financial route does not');
is($hub->value($events), 1, 'and keeps its event');
$hub->sql(q(SELECT sync.resume('crm')));
$hub->wait_idle;
is($hub->effects_of('crm')->{$id}[-1]{name}, 'money is never lost', 'which is sent in the end');
$hub->sql('SELECT sync._upkeep()');
is($hub->value($events), 0, 'and then goes');

# ---- history ----

my $history = q(SELECT (SELECT count(*) FROM sync.claim) + (SELECT count(*) FROM sync.outcome));
cmp_ok($hub->value($history), '>', 4000, 'there is history');
$hub->sql(q(UPDATE sync.claim SET at = at - interval '100 days'; UPDATE sync.outcome SET at = at - interval '100 days'));
$hub->sql('SELECT sync._upkeep()');
is($hub->value($history), 0, 'past its retention there is none');

$node->stop;
done_testing();

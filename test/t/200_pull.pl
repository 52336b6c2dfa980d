# What two systems change reaches the tables once, goes on to the other system,
# and never bounces: through a real hub, against the sandbox's plain vendor.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8->canonical;
my $other = SyncExt::Sandbox->start;
my $port = $other->port;
my $hub = SyncExt::Hub->new('main',
	systems => [],
	conf => "sync_ext.max_response = 64kB\n");
my $sandbox = $hub->sandbox;
my $node = $hub->node;

$node->append_conf('postgresql.conf',
	"sync_ext.allowed_hosts = 'http://127.0.0.1:" . $sandbox->port . ", http://127.0.0.1:$port'");
$node->reload;

# The shared manifest with small pages, and one of a vendor that tells no versions and no deletes.
sub variant
{
	my ($name, $change) = @_;
	my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));

	$manifest->{name} = $name;
	$change->($manifest, $manifest->{objects}{customer}{pull}, $manifest->{objects}{customer}{push});
	my $text = $json->encode($manifest);
	$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
	return;
}
variant(paged => sub {
	my (undef, $pull) = @_;
	$pull->{list}{page_size} = 10;
	$pull->{fields}{status} = { '$' => '$.status', default => 'active' };
	$pull->{on_delete} = { set => { status => 'churned' } };
});
variant(plain => sub {
	my (undef, $pull) = @_;
	delete @{ $pull->{record} }{qw(version version_at deleted)};
	delete $pull->{list}{query}{include_deleted};
	$pull->{fetch}{outcomes} = [ { status => '410', outcome => 'rejected', then => 'missing' } ];
	$pull->{scan_deletes} = { every => '2 s' };
	$pull->{fields}{status} = { '$' => '$.status', default => 'active' };
	$pull->{on_delete} = { set => { status => 'churned' } };
});

my %vendor = (crm => $sandbox, erp => $other);
my %connector = (crm => 'paged', erp => 'plain');
foreach my $system (qw(crm erp))
{
	$node->secret($system, 'token', $SyncExt::Hub::REST_TOKEN);
	$hub->sql("CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector '$connector{$system}',
			base_url '" . $vendor{$system}->url . "', settle_time '300 ms', rate_limit '1000/s', timeout '" . 3 * $SyncExt::Cluster::patience . " s');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (token 'file:token');
		SELECT sync.create_route('$system', 'customer');
		SELECT sync.create_stream('$system', 'customer')");
}

sub make { my ($system, %data) = @_; return $vendor{$system}->rest(POST => '/customers', \%data)->{id} }
sub change { my ($system, $id, %data) = @_; $vendor{$system}->rest(PATCH => "/customers/$id", \%data); return }
sub remote { my ($system, $id) = @_; return $vendor{$system}->rest(GET => "/customers/$id") }
sub ask { $hub->sql("SELECT sync.request_pull('$_', 'customer')") foreach @_; return }

sub pull
{
	my (@systems) = @_;
	ask(@systems);
	$hub->wait_idle;
	return;
}

sub row
{
	my ($system, $id) = @_;
	return $hub->sql("SELECT c.name, coalesce(c.billing_email, '-'), c.status FROM app.customer c
		JOIN sync.external_id x ON x.record_id = c.id::text JOIN sync.system y ON y.id = x.system_id
		WHERE y.name = '$system' AND x.remote_id = '$id'");
}

# The remote id of the same record at the other system.
sub twin
{
	my ($from, $id, $to) = @_;
	return $hub->value("SELECT b.remote_id FROM sync.external_id a JOIN sync.external_id b USING (object_id, record_id)
		JOIN sync.system y ON y.id = a.system_id AND y.name = '$from'
		JOIN sync.system z ON z.id = b.system_id AND z.name = '$to' WHERE a.remote_id = '$id'");
}

# Requests of ours that changed something at a system: those with a key are the hub's own.
sub writes
{
	my ($system) = @_;
	return scalar grep { $_->{method} ne 'GET' && ($_->{headers}{'user-agent'} // $_->{headers}{'User-Agent'} // '') !~ /HTTP-Tiny/ }
	  @{ $vendor{$system}->requests(limit => 5000) };
}

sub events { return $hub->value('SELECT count(*) FROM sync.outbox') }
sub cursor { my ($system) = @_; return $hub->value("SELECT c.cursor FROM sync.stream_cursor c JOIN sync.stream t ON t.id = c.stream_id
	JOIN sync.system y ON y.id = t.system_id WHERE y.name = '$system'") }
sub status { my ($system, $column) = @_; return $hub->value("SELECT $column FROM sync.stream_status WHERE system = '$system'") }

sub sound
{
	my ($name) = @_;
	is($hub->sql('SELECT * FROM sync.check_invariants()'), '', "$name: invariants");
	is($hub->value('SELECT count(*) FROM sync.pending'), 0, "$name: nothing is stuck")
	  or diag($hub->sql('SELECT route_id, record_id, state, code, message FROM sync.pending'));
	return;
}

# ---- a first walk over several pages, and on to the other system ----

my @id = map { make('crm', name => "Customer $_", email => "c$_\@example.com") } 1 .. 35;
pull('crm');
is($hub->value('SELECT count(*) FROM app.customer'), 35, 'a list of several pages is read');
is($hub->value('SELECT count(DISTINCT remote_id) FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id WHERE y.name = \'crm\''), 35,
	'and bound');
is($other->stats->{objects}{customers} // scalar @{ $other->effects }, 35, 'each reaches the other system once');
is(writes('crm'), 0, 'nothing bounces back');
sound('first walk');

# ---- an echo ----

my ($events, $crm, $erp) = (events(), writes('crm'), writes('erp'));
pull('erp', 'crm');
pull('erp', 'crm');
is(events(), $events, 'an echo raises no event');
is_deeply([ writes('crm'), writes('erp') ], [ $crm, $erp ], 'and no request to any system');
is($hub->value("SELECT count(*) FROM app.customer"), 35, 'and no row');

# ---- there, not back, not round ----

change('crm', $id[4], name => 'Renamed at A');
pull('crm', 'erp');
pull('crm', 'erp');
is(row('crm', $id[4]), 'Renamed at A|c5@example.com|active', 'a change of one system is in the table');
is(remote('erp', twin('crm', $id[4], 'erp'))->{name}, 'Renamed at A', 'and at the other system');
is_deeply([ writes('crm'), writes('erp') ], [ $crm, $erp + 1 ], 'once, and not back');
change('erp', twin('crm', $id[5], 'erp'), name => 'Renamed at B');
pull('erp', 'crm');
pull('erp', 'crm');
is(remote('crm', $id[5])->{name}, 'Renamed at B', 'the same the other way');
is_deeply([ writes('crm'), writes('erp') ], [ $crm + 1, $erp + 1 ], 'once, and not back');
sound('round trip');

# ---- ties, pages that shift, a late page ----

$sandbox->clock(freeze => 1);
change('crm', $_, name => "Same instant") foreach @id[0 .. 24];
pull('crm');
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name = 'Same instant')), 25, 'more ties than a page holds');
change('crm', $_, name => "Same instant, later") foreach @id[25 .. 30];
$sandbox->clock(freeze => 0);
pull('crm');
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name = 'Same instant, later')), 6, 'a tie with the mark itself');

# While page 2 is on its way, a record of page 1 changes: the list by time moves up by one.
$sandbox->clock(advance => 10);
foreach (@id[0 .. 24]) { change('crm', $_, name => 'Shifted'); sleep 0.002 }
$hub->sql(q(SELECT sync.pause('erp', 'its walks would stop at the point')));
sleep 0.5;
$hub->arm('pull_after_commit', 'wait');
ask('crm');
$hub->reached('pull_after_commit');
my $first = $hub->value(q(SELECT count(*) FROM app.customer WHERE name IN ('Shifted')));
cmp_ok($first, '<', 20, 'the first page is in, with the record that is to move');
$sandbox->clock(advance => 10);
change('crm', $id[26], name => 'Moved');
$hub->disarm('pull_after_commit');
$hub->sql(q(SELECT sync.resume('erp')));
$hub->wait_idle;
pull('crm');
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name = 'Shifted')), 25, 'no record is lost between two pages');
is(row('crm', $id[26]), 'Moved|c27@example.com|active', 'and what moved them is there');

# The vendor's index lags: for a while it hides what is new, and shows what is newer elsewhere.
$sandbox->fault(kind => 'late_page', ms => 1000, times => -1, match => { path => '/rest/customers', method => 'GET' });
change('crm', $id[2], name => 'Hidden for a second');
pull('crm');
$sandbox->clear_faults;
change('crm', $id[3], name => 'Seen at once');
pull('crm');
is(row('crm', $id[2]), 'Hidden for a second|c3@example.com|active', 'a late entry is not lost');

# ---- pages older than a push ----

# Requests so far.
sub came
{
	my ($system, $method, $path) = @_;
	return scalar grep { $_->{method} eq $method && $_->{path} eq $path } @{ $vendor{$system}->requests(path => $path, limit => 5000) };
}

foreach my $system (qw(crm erp))
{
	my $remote = $system eq 'crm' ? $id[6] : twin('crm', $id[7], 'erp');
	my $record = $hub->value("SELECT record_id FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
		WHERE y.name = '$system' AND x.remote_id = '$remote'");

	change($system, $remote, name => 'Theirs');
	# the page is made now and comes later
	$vendor{$system}->fault(kind => 'timeout_after_effect', ms => 900 * $SyncExt::Cluster::patience, match => { path => '/rest/customers', method => 'GET', exact => \1 });
	my $came = came($system, GET => '/rest/customers');
	ask($system);
	$hub->wait_until('the read', sub { came($system, GET => '/rest/customers') > $came });
	$hub->sql("UPDATE app.customer SET name = 'Ours' WHERE id = '$record'");
	$hub->poll_until("SELECT outcome = 'done' FROM sync.wait_for('customer', '$record', '$system')");
	is(remote($system, $remote)->{name}, 'Ours', "$system has our push");
	$hub->wait_idle;
	is($hub->value("SELECT name FROM app.customer WHERE id = '$record'"), 'Ours', "a page of $system from before the push does not revert it");
	pull($system);
	$hub->wait_idle;
	is($hub->value("SELECT name FROM app.customer WHERE id = '$record'"), 'Ours', 'nor does the next');
	is(remote($system, $remote)->{name}, 'Ours', 'and the system keeps it');
	$vendor{$system}->clear_faults;

	# a push is out while a page is read that shows another change
	$vendor{$system}->fault(kind => 'timeout_after_effect', ms => 900 * $SyncExt::Cluster::patience, match => { path => "/rest/customers/$remote", method => 'PATCH' });
	$came = came($system, PATCH => "/rest/customers/$remote");
	$hub->sql("UPDATE app.customer SET name = 'Ours again' WHERE id = '$record'");
	$hub->wait_until('the push', sub { came($system, PATCH => "/rest/customers/$remote") > $came });
	change($system, $remote, email => 'theirs@example.com');
	pull($system);
	$hub->poll_until('SELECT count(*) = 0 FROM sync.inbox_status');
	$hub->wait_idle;
	is($hub->value("SELECT name || ' ' || billing_email FROM app.customer WHERE id = '$record'"), 'Ours again theirs@example.com',
		"a change at $system during a push is read by id afterwards");
	ok((grep { $_->{method} eq 'GET' && $_->{path} eq "/rest/customers/$remote" } @{ $vendor{$system}->requests(limit => 5000) }) > 0,
		'indeed by id');
	$vendor{$system}->clear_faults;
}
pull('crm', 'erp');
sound('late pages');

# ---- records that cannot be applied ----

$hub->sql(q(ALTER TABLE app.customer ADD CONSTRAINT no_poison CHECK (name <> 'poison')));
change('crm', $id[10], name => 'poison');
change('crm', $_, name => 'healthy') foreach @id[9, 11];
pull('crm');
is(row('crm', $_), sprintf('healthy|c%d@example.com|active', $_ eq $id[9] ? 10 : 12), 'neighbours of a poison record are applied') foreach @id[9, 11];
is($hub->sql(q(SELECT remote_id, state, sqlstate FROM sync.inbox_status)), "$id[10]|failed|23514", 'which waits in the inbox');
like($hub->value('SELECT reason FROM sync.inbox_status'), qr/no_poison/, 'with its reason');
my $poison = cursor('crm');
change('crm', $id[12], name => 'later');
pull('crm');
isnt(cursor('crm'), $poison, 'and holds up nothing');
$hub->sql('ALTER TABLE app.customer DROP CONSTRAINT no_poison');
is($hub->value('SELECT sync.retry_inbox()'), 1, 'the cause is removed');
$hub->poll_until('SELECT count(*) = 0 FROM sync.inbox_status');
is(row('crm', $id[10]), 'poison|c11@example.com|active', 'and the record goes in');
$hub->wait_idle;
is(remote('erp', twin('crm', $id[10], 'erp'))->{name}, 'poison', 'and on');

# ---- deletes: by tombstone, and by a walk over everything ----

my $deleted = twin('crm', $id[13], 'erp');
$sandbox->rest(DELETE => "/customers/$id[13]");
pull('crm');
is(row('crm', $id[13]), "Shifted|c14\@example.com|churned", 'a tombstone is obeyed');
my $scanned = twin('crm', $id[14], 'erp');
$other->rest(DELETE => "/customers/$scanned");
$hub->poll_until("SELECT m.deleted FROM sync.mirror m JOIN sync.system y ON y.id = m.system_id WHERE y.name = 'erp' AND m.remote_id = '$scanned'");
is(row('erp', $scanned), "Shifted|c15\@example.com|churned", 'a record that a walk over everything misses is read by id, and gone');
is($hub->value(q(SELECT count(*) FROM app.customer WHERE status = 'churned')), 2, 'others stay');
$hub->wait_idle;

# ---- answers that are none ----

my @bad = (
	{ kind => 'truncated' }, { kind => 'reset_mid_body' }, { kind => 'garbage' }, { kind => 'huge', bytes => 200_000 },
	{ kind => 'infinite' }, { kind => 'bad_charset', field => 'name' }, { kind => 'nul', field => 'name' },
	{ kind => 'status', status => 200, body => '{"data": null}' }, { kind => 'status', status => 200, body => '[]' },
	{ kind => 'status', status => 200, body => '{"data": [{"name": "no id"}]}' },
	{ kind => 'status', status => 200, body => ('[' x 5000) }, { kind => 'status', status => 500, body => 'sk' },
	{ kind => 'status', status => 302, headers => { Location => $other->url . '/rest/customers' }, body => '' });
foreach my $n (0 .. $#bad)
{
	my $rule = $bad[$n];
	my $name = $rule->{kind} . (defined $rule->{status} ? " $rule->{status} " . substr $rule->{body}, 0, 12 : '');

	# The fault first: a poll of its own time would read the change before it. It stays until it was seen.
	$sandbox->fault(match => { path => '/rest/customers', method => 'GET', exact => \1 }, times => -1, %$rule);
	my $before = cursor('crm');
	change('crm', $id[15], name => "Behind $n");
	ask('crm');
	$hub->poll_until("SELECT failures > 0 FROM sync.stream_status WHERE system = 'crm'");
	is(cursor('crm'), $before, "$name: the cursor stays");
	$sandbox->clear_faults;
	pull('crm');
	is(row('crm', $id[15]), "Behind $n|c16\@example.com|active", "$name: and later it goes on");
}

# ---- paused ----

$hub->sql(q(SELECT sync.pause('crm', 'a test')));
my $asked = @{ $sandbox->requests(limit => 5000) };
change('crm', $id[16], name => 'While paused');
$asked++;
ask('crm');
sleep 1;
is(scalar @{ $sandbox->requests(limit => 5000) }, $asked, 'a paused system is not asked');
$hub->sql(q(SELECT sync.resume('crm')));
$hub->wait_idle;
is(row('crm', $id[16]), "While paused|c17\@example.com|active", 'what was asked for meanwhile is read afterwards');

# ---- dead ----

my $pid = $other->pid;
kill 'STOP', $pid;
ask('erp');
$hub->poll_until(q(SELECT failures > 0 FROM sync.stream_status WHERE system = 'erp'), 30);
change('crm', $id[17], name => 'While B hangs');
ask('crm');
$hub->poll_until(q(SELECT count(*) = 1 FROM app.customer WHERE name = 'While B hangs'));
is(row('crm', $id[17]), "While B hangs|c18\@example.com|active", 'the neighbour goes on');
like(status('erp', 'last_error'), qr/no answer/, 'the stream says what is wrong');
is($hub->value(q(SELECT next_at > now() FROM sync.stream_status WHERE system = 'erp')), 't', 'and pauses');
kill 'CONT', $pid;
$hub->poll_until(q(SELECT failures = 0 FROM sync.stream_status WHERE system = 'erp'), 60);
pass('and goes on by itself');
$hub->wait_idle;

# ---- an interval ----

$hub->sql(q(SELECT sync.drop_stream('crm', 'customer'); SELECT sync.create_stream('crm', 'customer', '1 s')));
change('crm', $id[18], name => 'By the clock');
$hub->poll_until(q(SELECT count(*) = 1 FROM app.customer WHERE name = 'By the clock'), 30);
$hub->poll_until(q(SELECT pages > 4 FROM sync.stream_status WHERE system = 'crm'), 30);
pass('a stream with an interval polls by itself');
$hub->sql(q(SELECT sync.drop_stream('crm', 'customer'); SELECT sync.create_stream('crm', 'customer')));
pull('crm', 'erp');
sound('at the end');

$node->stop;
done_testing();

# Compared with what the hub knows of a system: exactly what was tampered with is found, by a look at all and
# by one at what changed; nothing while writers go on; and nothing is different after the hub has died.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm']);
my $sandbox = $hub->sandbox;

# The system is no authority for names, so that what somebody writes over there stays a difference, which
# that policy explains; and a record that this table cannot take waits in the inbox for a person.
$hub->sql(q{ALTER TABLE app.customer ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(), ADD CHECK (name NOT LIKE 'Refused%');
	SELECT sync.set_owner('customer', 'name', 'hub', 'ignore', 'tested');
	SELECT sync.set_delete_policy('customer', 'crm', 'ignore');
	SELECT sync.create_stream('crm', 'customer')});

sub remote_id { my ($id) = @_; return $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')") }

sub pull
{
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	$hub->poll_until(q(SELECT state = 'idle' FROM sync.stream_status WHERE system = 'crm'));
	return;
}

sub reconcile
{
	my ($mode) = @_;
	my $run = $hub->value("SELECT sync.reconcile('crm', 'customer', mode => '$mode')");

	return $hub->value("SELECT format('found %s opened %s closed %s', found, opened, closed) FROM sync.reconciliation_run WHERE id = $run");
}

# Breaks that are open or explained as sorted lines: kind, what it is about, field.
sub breaks
{
	return [ sort split /\n/, $hub->sql(q(SELECT concat_ws(' ', status, kind, coalesce(remote_id, record_id), field) FROM sync.reconciliation_break WHERE status <> 'resolved')) ];
}

# ---- what was never read ----

my (undef, undef, $refused) = $hub->node->psql($hub->database, q(SELECT sync.reconcile('crm', 'customer')));
like($refused, qr/was never read from system "crm" to the end.*HINT:  Have it read/s, 'a system that was never read is not compared');

# ---- what agrees ----

my @id = map { $hub->write("Customer $_", billing_email => "c$_\@example.com") } 1 .. 40;
$hub->wait_idle;
pull();
is(reconcile('mirror'), 'found 0 opened 0 closed 0', 'what agrees has no breaks');
is($hub->value(q(SELECT r.known_as_of = k.started_at AND r.known_as_of < k.finished_at FROM sync.reconciliation_run r, sync.stream_cursor k ORDER BY r.id DESC LIMIT 1)), 't', 'and says when it was read');

# ---- what differs, found by a look at what changed ----

my @planted;

sub plant
{
	my ($n) = @_;
	my ($renamed, $deleted, $sent) = splice @id, 0, 3;

	$sandbox->rest(PATCH => '/customers/' . remote_id($renamed), { name => "Theirs $n" });
	push @planted, 'explained field_differs ' . remote_id($renamed) . ' name';
	$sandbox->rest(DELETE => '/customers/' . remote_id($deleted));
	push @planted, 'explained missing_there ' . remote_id($deleted);
	push @planted, 'open missing_here ' . $sandbox->rest(POST => '/customers', { name => "Refused $n" })->{id};
	# and what is the same on both sides again
	$hub->rename($sent, "Renamed $n");
	$hub->wait_idle;
	pull();
	return;
}
plant(1);
is_deeply(breaks(), [], 'nothing is found that nobody looked for');
is(reconcile('delta'), 'found 1 opened 1 closed 0', 'a look at what changed finds what somebody did over there');
is_deeply(breaks(), [ sort @planted ], 'and exactly that');
is(reconcile('mirror'), 'found 1 opened 0 closed 0', 'a look at all finds the same');
is_deeply(breaks(), [ sort @planted ], 'by the same names');
plant(2);
is(reconcile('mirror'), 'found 2 opened 1 closed 0', 'more of it is found by a look at all');
is(reconcile('delta'), 'found 2 opened 0 closed 0', 'which the next look at what changed sees again');
is_deeply(breaks(), [ sort @planted ], 'and nothing else');

# What went past the triggers is in no log: it takes a look at all.
my $past = pop @id;
my $gone = pop @id;
my $orphan = remote_id($gone);
$hub->sql("SET session_replication_role = replica; UPDATE app.customer SET billing_email = 'past\@example.com' WHERE id = '$past'; DELETE FROM app.customer WHERE id = '$gone'");
push @planted, 'open field_differs ' . remote_id($past) . ' billing_email', "open orphan $orphan";
is(reconcile('mirror'), 'found 4 opened 2 closed 0', 'it is by one at all');
is_deeply(breaks(), [ sort @planted ], 'exactly it');

# ---- writers and pulls go on, and the hub dies ----

my $n = 0;

sub live
{
	$n++;
	my $id = $id[ $n % @id ];

	$hub->rename($id, "Live $n");
	$hub->write("New $n") if $n % 3 == 0;
	return if $n % 4;
	$sandbox->rest(PATCH => '/customers/' . remote_id($id), { email => "live$n\@example.com" });
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	return;
}
my %seen;
foreach my $round (1 .. 24)
{
	live() for 1 .. 2;
	if ($round == 12)
	{
		# and the server with it, for a moment
		my $offset = $hub->log_size;

		kill 'KILL', $hub->hub_pid;
		$hub->node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
		$hub->wait_up;
	}
	$seen{ reconcile($round % 4 ? 'delta' : 'mirror') }++;
}
is_deeply([ keys %seen ], ['found 4 opened 0 closed 0'], 'no false break while writers and pulls go on and the hub dies, and none is lost');
$hub->wait_idle;
pull();
is(reconcile('delta'), 'found 4 opened 0 closed 0', 'nor one when all is quiet');
is(reconcile('mirror'), 'found 4 opened 0 closed 0', 'whatever is looked at');
is_deeply(breaks(), [ sort @planted ], 'the same as ever');
is($hub->value(q(SELECT our_count || ' ' || their_count || ' ' || unexplained_count FROM sync.reconciliation_summary)),
	$hub->value(q(SELECT concat_ws(' ', count(*) - 1, count(*), 3) FROM sync.external_id)), 'both sides are counted: they have two more that were refused and two less that were deleted, we one less, whose record is an orphan');

# ---- repaired by hand, they are closed by the next look ----

$hub->sql("UPDATE app.customer SET billing_email = (SELECT m.fields ->> 'billing_email' FROM sync.mirror m WHERE m.record_id = '$past') WHERE id = '$past'");
$hub->wait_idle;
is(reconcile('delta'), 'found 3 opened 0 closed 1', 'what is corrected is closed by a look at what changed');

# ---- a run that opens a break is an event, which a route sends ----

my $manifest = JSON::PP->new->utf8->decode(SyncExt::Hub::manifest('rest'));
$manifest->{version} = '2';
$manifest->{objects}{drift_detected} = { push => { operations => {
	lookup => { path => '/rest/messages', query => { external_id => '$.id' }, response => { items => '$.data', remote_id => '$.id' } },
	create => { method => 'POST', path => '/rest/messages', body => { external_id => '$.id', name => '$.new.source', opened => '$.new.opened' }, response => { remote_id => '$.id' } } } } };
$hub->sql('SELECT sync.register_connector($manifest$' . JSON::PP->new->utf8->canonical->encode($manifest) . q{$manifest$::jsonb);
	SELECT sync.create_drift_events('app'); SELECT sync.create_route('crm', 'drift_detected', 'opened > 0', operations => '{insert}')});
$hub->sql("SET session_replication_role = replica; UPDATE app.customer SET billing_email = 'drift\@example.com' WHERE id = '$id[0]'");
is(reconcile('mirror'), 'found 4 opened 1 closed 0', 'something is different again');
is(reconcile('mirror'), 'found 4 opened 0 closed 0', 'and once more the same');
$hub->wait_idle;
is_deeply([ map { "$_->{name} $_->{opened}" } @{ $sandbox->rest(GET => '/messages')->{data} } ], ['record:crm:customer 1'], 'which is told once');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'no invariant is broken');

done_testing;

# Records on both sides before the first sync: nothing is bound or created before people have decided, and
# nothing twice afterwards. Then records that are one, with the server killed in the middle of it, and
# deletes that are too many.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use IPC::Run ();
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm'], no_routes => 1, conf => "sync_ext.notify_outcomes = off\n");
my $sandbox = $hub->sandbox;
my $node = $hub->node;

$hub->sql(q{
	ALTER TABLE app.customer ADD merged_into_id uuid REFERENCES app.customer;
	CREATE TABLE app.contact (id integer PRIMARY KEY, customer_id uuid NOT NULL REFERENCES app.customer);
	SELECT sync.set_match_rule('customer', 'crm', 1, '{billing_email}', 'email');
	INSERT INTO app.customer (name, billing_email, number) SELECT 'Ours ' || n, 'C' || n || '@Example.com ', 'N' || n FROM generate_series(1, 25) n;
	INSERT INTO app.customer (name, billing_email, number) VALUES ('Twin', 'twin@example.com', 'T1'), ('Twin', 'twin@example.com', 'T2')});
$sandbox->rest(POST => '/customers', { name => "Theirs $_", email => "c$_\@example.com" }) foreach 6 .. 30;
$sandbox->rest(POST => '/customers', { name => 'Twin', email => 'twin@example.com' });

sub remote
{
	my %by_email;
	my $page = 1;

	while ($page)
	{
		my $list = $sandbox->rest(GET => "/customers?per_page=1000&page=$page");
		push @{ $by_email{ lc($_->{email} =~ s/\s//gr) } }, $_ foreach @{ $list->{data} };
		$page = $list->{next_page};
	}
	return \%by_email;
}

sub remote_count { return scalar map { @$_ } values %{ remote() } }
sub twice { my $r = remote(); return grep { @{ $r->{$_} } > 1 } sort keys %$r }
sub sound
{
	my ($name) = @_;
	is($hub->sql('SELECT * FROM sync.check_invariants()'), '', "$name: invariants");
	return;
}

# ---- nothing before it is decided ----

$hub->sql(q{SELECT sync.create_stream('crm', 'customer', identity => 'decide'); SELECT sync.create_route('crm', 'customer')});
$hub->poll_until(q(SELECT finished_at IS NOT NULL FROM sync.stream_status)) if 0;
$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
$hub->poll_until(q(SELECT count(*) = 26 FROM sync.inbox WHERE sqlstate = 'SE063'));
# the app goes on: changes of records that nobody has identified, and a new one
$hub->sql(q(UPDATE app.customer SET name = name || ' b' WHERE number IN ('N1', 'N10', 'T1')));
$hub->write('Fresh', billing_email => 'fresh@example.com');
$hub->poll_until(q(SELECT count(*) = 4 FROM sync.pending WHERE state = 'waiting' AND code = 'identity_undecided'));
is($hub->value('SELECT count(*) FROM sync.external_id'), 0, 'nothing is bound');
is($hub->value('SELECT count(*) FROM app.customer'), 28, 'nothing is created here');
is(remote_count(), 26, 'nor there');
my ($status, undef, $stderr) = $node->psql($hub->database, q(SELECT sync.create_route('crm', 'customer', start => 'all')));
isnt($status, 0, 'the past is not sent');
is($hub->sql(q(SELECT verdict, count(*) FROM sync.match_preview('crm', 'customer') GROUP BY 1 ORDER BY 1)), "ambiguous|1\nbind|20\nnone|5", 'preview');

# ---- decided: what fits is one, the rest is created once ----

$hub->poll_until(q(SELECT coalesce((SELECT c.finished_at > t.deciding_since AND c.finished_at >= c.started_at FROM sync.stream t JOIN sync.stream_cursor c ON c.stream_id = t.id), false)));
is($hub->sql(q(SELECT * FROM sync.accept_matches('crm', 'customer', 'looked through'))), '20|5|1', 'accepted');
$hub->poll_until(q(SELECT count(*) = 1 FROM sync.inbox));
$hub->poll_until(q(SELECT count(*) = 1 FROM sync.pending));
is($hub->value(q(SELECT count(*) FROM app.customer)), 33, 'what only they had is here');
is(join(' ', twice()), '', 'nothing is there twice');
is($hub->value(q(SELECT code FROM sync.pending)), 'identity_undecided', 'the twin waits');
is(remote_count(), 28, 'what only we had is there, as far as it changed');
my $twin = $hub->value(q(SELECT remote_id FROM sync.match_candidate WHERE verdict = 'ambiguous'));
my $second = $hub->value(q(SELECT id FROM app.customer WHERE number = 'T2'));
$hub->sql("SELECT sync.decide_match('crm', 'customer', '$twin', '$second', 'called them')");
$hub->poll_until(q(SELECT count(*) = 0 FROM sync.inbox));
$hub->wait_idle;
is($hub->value("SELECT remote_id FROM sync.external_id WHERE record_id = '$second'"), $twin, 'the twin is who they say');
is(scalar @{ remote()->{'twin@example.com'} }, 2, 'the other twin is created there');
is($hub->value(q(SELECT count(*) FROM sync.conflict_entry WHERE resolved_at IS NULL)), 0, 'no conflict is left');
sound('decided');

# ---- two that are one, and the server dies in the middle ----

my %id = map { $_ => $hub->value("SELECT id FROM app.customer WHERE number = '$_'") } qw(N10 N11);
$hub->sql("INSERT INTO app.contact SELECT n, '$id{N11}' FROM generate_series(1, 3) n");
my ($in, $out, $err) = ('', '', '');
my $lock = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($hub->database) ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; SELECT 'locked' FROM app.contact WHERE id = 3 FOR UPDATE;\n";
$lock->pump until $out =~ /locked/;
my ($merge_out, $merge_err) = ('', '');
my $merge = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($hub->database), '-c',
	"SELECT sync.merge_records('customer', '$id{N10}', '$id{N11}', 'one')" ], '<', \undef, '>', \$merge_out, '2>', \$merge_err);
$hub->poll_until(q(SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%merge_records%' AND pid <> pg_backend_pid()));
my $offset = $hub->log_size;
kill 'KILL', $hub->value(q(SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%merge_records%' AND pid <> pg_backend_pid()));
$merge->finish;
$in .= "\\q\n";
eval { $lock->finish };
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
$hub->wait_up;
is($hub->sql('SELECT count(*) FROM sync.merge'), 0, 'killed in the middle: there was no merge');
is($hub->sql("SELECT DISTINCT customer_id FROM app.contact"), $id{N11}, 'and nothing was moved');
is($hub->value("SELECT count(*) FROM sync.external_id WHERE record_id IN ('$id{N10}', '$id{N11}')"), 2, 'nor were external ids');

my $lost = $hub->value("SELECT remote_id FROM sync.external_id WHERE record_id = '$id{N11}'");
my $kept = $hub->value("SELECT remote_id FROM sync.external_id WHERE record_id = '$id{N10}'");
# The loser's change may still be on its way when the two become one.
$hub->sql("UPDATE app.customer SET name = 'Last of eleven' WHERE id = '$id{N11}'");
$hub->sql("SELECT sync.merge_records('customer', '$id{N10}', '$id{N11}', 'one')");
$hub->sql("UPDATE app.customer SET name = 'The one' WHERE id = '$id{N10}'");
$hub->wait_idle;
is($sandbox->rest(GET => "/customers/$kept")->{name}, 'The one', 'the survivor is sent');
my $before = remote_count();
$sandbox->rest(PATCH => "/customers/$lost", { name => 'Changed there' });
$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
$hub->wait_idle;
is($hub->sql("SELECT count(*) FILTER (WHERE name = 'Changed there'), count(*) FROM app.customer"), '0|33', 'what is done to the second remote record changes nothing here');
is(remote_count(), $before, 'and nothing is created there');
is($hub->value(q(SELECT kind FROM sync.conflict_entry WHERE resolved_at IS NULL)), 'merged', 'that it is still there is told');
sound('merged');
$hub->sql("SELECT sync.undo_merge(max(id), 'two after all') FROM sync.merge");
$hub->sql("UPDATE app.customer SET name = 'Eleven' WHERE id = '$id{N11}'");
$hub->wait_idle;
is($sandbox->rest(GET => "/customers/$lost")->{name}, 'Eleven', 'parted again, each is sent to its own');
is($hub->sql("SELECT DISTINCT customer_id FROM app.contact"), $id{N11}, 'and its contacts are its own');
sound('undone');

# ---- deletes ----

$hub->sql(q(SELECT sync.set_delete_policy('customer', 'crm', 'propagate')));
my @ids = split /\n/, $hub->sql(q(SELECT remote_id FROM sync.external_id x JOIN app.customer c ON c.id::text = x.record_id WHERE c.number IS NULL OR c.number ~ '^N1[2-9]' ORDER BY 1));
cmp_ok(scalar @ids, '>', 11, 'there are enough');
$sandbox->rest(DELETE => "/customers/$_") foreach @ids;
$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
$hub->poll_until("SELECT count(*) = " . @ids . " FROM sync.held_delete");
is($hub->value('SELECT count(*) FROM app.customer'), 33, 'so many deletes wait');
my $approval = $hub->value(q(SELECT id FROM sync.approval_request WHERE operation = 'mass_delete' AND state = 'open'));
$hub->sql("UPDATE sync.approval_request SET state = 'approved', decided_by = 'somebody', decided_at = now() WHERE id = $approval;
	SELECT sync._approved_mass_delete(call, id) FROM sync.approval_request WHERE id = $approval");
$hub->poll_until("SELECT count(*) = 33 - " . @ids . " FROM app.customer");
$hub->wait_idle;
is($hub->value('SELECT count(*) FROM sync.held_delete'), 0, 'approved, they are applied');

# ours: deactivated there, or left alone
$hub->sql(q(SELECT sync.set_delete_policy('customer', 'crm', 'deactivate', '{"name": "(closed)"}')));
my ($gone) = split /\n/, $hub->sql(q(SELECT c.id || ' ' || x.remote_id FROM sync.external_id x JOIN app.customer c ON c.id::text = x.record_id WHERE c.number = 'N6'));
my ($gone_id, $gone_remote) = split / /, $gone;
$hub->sql("DELETE FROM app.customer WHERE id = '$gone_id'");
$hub->wait_idle;
is($sandbox->rest(GET => "/customers/$gone_remote")->{name}, '(closed)', 'a delete of ours is an update there');
$hub->sql(q(SELECT sync.set_delete_policy('customer', 'crm', 'ignore')));
($gone) = split /\n/, $hub->sql(q(SELECT c.id || ' ' || x.remote_id FROM sync.external_id x JOIN app.customer c ON c.id::text = x.record_id WHERE c.number = 'N7'));
($gone_id, $gone_remote) = split / /, $gone;
my $name = $sandbox->rest(GET => "/customers/$gone_remote")->{name};
$hub->sql("DELETE FROM app.customer WHERE id = '$gone_id'");
$hub->wait_idle;
is($sandbox->rest(GET => "/customers/$gone_remote")->{name}, $name, 'or nothing');
is($hub->value("SELECT outcome || ' ' || code FROM sync.outcome WHERE code = 'delete_ignored'"), 'ignored delete_ignored', 'and the history says so');
sound('deleted');
is($hub->value('SELECT count(*) FROM sync.pending'), 0, 'nothing is stuck');

done_testing;

# Deliveries that are held: what a retry sends and what it does not, and people whose transactions
# meet the hub at a held row.
use strict;
use warnings;

use JSON::PP;
use POSIX ();
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep);

# Long enough for a poll to see what is ambiguous before it is looked up.
my $settle = 500 * $SyncExt::Cluster::patience;
my $hub = SyncExt::Hub->new('held', systems => ['crm'], options => { crm => { settle_time => "$settle ms", timeout => '20 s' } });
my ($node, $sandbox) = ($hub->node, $hub->sandbox);
my $json = JSON::PP->new->utf8->canonical;
my $version = 1;
my $gate = PostgreSQL::Test::Utils::tempdir('gate');

# Registers the connector anew, changed by the caller.
sub connector
{
	my ($change) = @_;
	my $m = $json->decode(SyncExt::Hub::manifest('rest'));

	$change->($m, $m->{objects}{customer}{push}{operations});
	$m->{version} = '1.' . $version++;
	my $text = $json->encode($m);
	$hub->sql("SELECT sync.register_connector(\$m\$$text\$m\$::jsonb)");
	return;
}

sub posts
{
	my ($id) = @_;
	return grep { $_->{method} eq 'POST' && index($_->{body} // '', $id) >= 0 } @{ $sandbox->requests(path => '/rest', limit => 5000) };
}

sub state_of { my ($id) = @_; return $hub->value("SELECT state || ' ' || coalesce(code, '') FROM sync.pending WHERE record_id = '$id'") // '' }

# A session that runs one statement, and the next when its gate opens.
sub session
{
	my ($name, @statements) = @_;
	my $pid = fork();

	if (!$pid)
	{
		my $script = join "\n", map { ref $_ ? "\\! touch $gate/$name.reached; until [ -e $gate/$name ]; do sleep 0.02; done" : $_ } @statements;
		$node->psql('hub', $script);
		POSIX::_exit(0);
	}
	$hub->wait_until("session $name", sub { -e "$gate/$name.reached" });
	return $pid;
}

sub let_go { my ($name, $pid) = @_; PostgreSQL::Test::Utils::append_to_file("$gate/$name", ''); waitpid $pid, 0; return }

# Writes a record whose request gets lost, and does something before it is looked up or sent again: the system is
# paused while the request is out.
sub lose
{
	my ($fault, $name, $meanwhile) = @_;

	$sandbox->fault(kind => 'latency', ms => 1000 + $settle, match => { method => 'POST' });
	$sandbox->fault(kind => $fault, match => { method => 'POST' });
	my $id = $hub->write($name);
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.claim WHERE record_id = '$id')");
	$hub->sql("SELECT sync.pause('crm')");
	# dead: on a slow machine the key is over by then
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state IN ('ambiguous', 'dead'))");
	$meanwhile->($id);
	$hub->sql("SELECT sync.resume('crm')");
	$hub->wait_idle;
	return $id;
}

subtest 'a create whose key is over, and that nobody can look up' => sub {
	connector(sub { my ($m, $ops) = @_; $m->{idempotency} = { header => 'Idempotency-Key', lifetime => '2 s', methods => ['POST'] }; delete $ops->{lookup} });
	$sandbox->config(rest_honours_keys => JSON::PP::true);
	my $id = lose('reset_before', 'nobody knows', sub {
		$hub->poll_until("SELECT clock_timestamp() > first_claim_at + interval '2 s' FROM sync.pending WHERE record_id = '$_[0]'") });
	is(state_of($id), 'dead ambiguous', 'is dead');
	is(scalar(posts($id)), 1, '… and was not sent again');
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'a person who wants it sent gets it sent');
};

subtest 'a long request that comes out otherwise when it is made again' => sub {
	my $keys = sub { my ($m) = @_; $m->{idempotency} = { header => 'Idempotency-Key', lifetime => '1 hour', methods => ['POST'] } };
	my $anew = sub { my ($word) = @_; return sub { $keys->(@_); $_[1]{create}{body}{rendered} = $word } };
	connector($keys);
	my $id = lose('reset_after', 'long ' . 'x' x 70000, sub { connector($anew->('anew')) });
	is(scalar(posts($id)), 1, 'is looked up, and found');
	is_deeply([ $hub->broken ], [], 'all is well');
	$id = lose('reset_before', 'lost ' . 'x' x 70000, sub { connector($anew->('otherwise')) });
	my @posts = posts($id);
	is(scalar @posts, 2, 'or sent again, when it never came');
	isnt($posts[0]{headers}{'idempotency-key'} // $posts[0]{headers}{'Idempotency-Key'}, $posts[1]{headers}{'idempotency-key'} // $posts[1]{headers}{'Idempotency-Key'}, '… under a key of its own');
	is_deeply([ $hub->broken ], [], 'all is well');
	connector(sub { });
};

subtest 'a record that was made and could not be bound' => sub {
	my $first = $hub->write('first');
	$hub->wait_idle;
	my $remote = $hub->value("SELECT sync.remote_id('customer', '$first', 'crm')");
	$sandbox->fault(kind => 'status', status => 201, headers => { 'Content-Type' => 'application/json' }, body => qq({"id": "$remote"}), match => { method => 'POST' });
	my $id = $hub->write('second');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'conflict')");
	is(state_of($id), 'conflict not_bound', 'is a conflict');
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->poll_until("SELECT state = 'conflict' FROM sync.pending WHERE record_id = '$id'");
	is(scalar(posts($id)), 1, 'retried, it is not made again');
	# The person finds that the binding of the first one was wrong.
	$hub->sql("DELETE FROM sync.external_id WHERE record_id = '$first'; DELETE FROM sync.mirror WHERE record_id = '$first'");
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->wait_idle;
	is($hub->value("SELECT sync.remote_id('customer', '$id', 'crm')"), $remote, 'and bound when it can be');
	is(scalar(posts($id)), 1, '… without another request');
	is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'no invariant is broken');
	$hub->forget($_) foreach $first, $id;
};

# A dead delivery, ready to be retried.
sub dead
{
	my ($name) = @_;

	$sandbox->fault(kind => 'status', status => 422, body => '{"code": "bad", "message": "no"}', match => { method => 'POST', body_contains => $name });
	my $id = $hub->write($name);
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'dead')");
	return $id;
}

subtest 'a person who discards what he saw before it was claimed' => sub {
	my $id = dead('discarded late');
	$sandbox->fault(kind => 'latency', ms => 2000, match => { method => 'POST', body_contains => 'discarded late' });
	$hub->arm('push-claiming', 'wait');
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->reached('push-claiming');
	my $pid = session('older', 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sync.claim;', \1,
		"SELECT sync.discard(id) FROM sync.pending WHERE record_id = '$id'; COMMIT;");
	$hub->disarm('push-claiming');
	$hub->poll_until("SELECT count(*) = 2 FROM sync.claim WHERE record_id = '$id'");
	let_go('older', $pid);
	is($hub->value("SELECT count(*) FROM sync.pending WHERE record_id = '$id'"), 0, 'it is discarded while its request is out');
	$hub->poll_until("SELECT count(*) = 3 FROM sync.outcome o WHERE o.seq = (SELECT max(seq) FROM sync.claim WHERE record_id = '$id')");
	is($hub->value("SELECT count(*) FROM sync.outcome o WHERE o.final AND o.seq = (SELECT max(seq) FROM sync.claim WHERE record_id = '$id')"), 1, 'it ends once');
	$hub->rename($id, 'after the discard');
	$hub->wait_idle;
	is(scalar(posts($id)), 2, 'what the request made is known, so the next change updates it');
	is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'no invariant is broken');
	$hub->forget($id);
};

subtest 'a route that is dropped while a held delivery is out' => sub {
	my $id = dead('dropped');
	$sandbox->fault(kind => 'latency', ms => 1500, match => { method => 'POST', body_contains => 'dropped' });
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->poll_until("SELECT count(*) = 2 FROM sync.claim WHERE record_id = '$id'");
	$hub->sql("SELECT sync.drop_route('customer_to_crm', force => true)");
	my $answered = $hub->write('the old route is gone');
	$hub->wait_until('the answer', sub { grep { ($_->{metadata}{name} // '') eq 'dropped' } @{ $sandbox->effects } });
	$hub->sql("SELECT sync.create_route('crm', 'customer')");
	$hub->write('the new route');
	$hub->wait_idle;
	is($hub->value("SELECT count(*) FROM sync.outcome o WHERE o.final AND (o.route_id, o.seq) IN (SELECT route_id, seq FROM sync.claim WHERE record_id = '$id')"), 1, 'it ends once');
	$hub->forget($_) foreach $id, $answered;
};

subtest 'a person who has locked held rows' => sub {
	my $offset = $hub->log_size;
	my $id = dead('locked');
	$hub->rename($id, 'locked two');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'behind')");
	$sandbox->fault(kind => 'latency', ms => 1000, match => { method => 'POST', body_contains => 'locked' });
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id' AND state = 'dead'");
	$hub->poll_until("SELECT count(*) = 2 FROM sync.claim WHERE record_id = '$id'");
	# The answer to the first comes while both rows are locked, then the first alone is let go.
	my $pid = session('first', 'BEGIN;', "SELECT FROM sync.pending WHERE record_id = '$id' AND state <> 'behind' FOR UPDATE;", \1, 'ROLLBACK;');
	my $other = session('second', 'BEGIN;', "SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'behind' FOR UPDATE;", \1, 'ROLLBACK;');
	$hub->wait_until('the answer', sub { grep { ($_->{metadata}{name} // '') eq 'locked' } @{ $sandbox->effects } });
	my $neighbour = $hub->write('neighbour');
	ok($hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$neighbour' AND state = 'synced')"), 'others go on');
	let_go('first', $pid);
	ok($hub->poll_until("SELECT count(*) = 1 FROM sync.pending WHERE record_id = '$id'"), 'its answer is recorded when the lock is gone');
	let_go('second', $other);
	$hub->poll_until("SELECT count(*) = 0 FROM sync.pending WHERE record_id = '$id'");
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'and its next change goes');
	is($hub->value("SELECT count(*) FROM sync.outcome WHERE code = 'no_answer' AND state <> 'done' AND at > (SELECT min(at) FROM sync.claim WHERE record_id = '$id')"), 0, 'no answer was lost');
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset), qr/lock timeout/, 'the hub waited for nobody');
};

# They are claimed together, and the reference of one cannot be looked for in its table any more.
subtest 'a delivery that cannot be rendered, among others' => sub {
	connector(sub { $_[1]{create}{body}{tier} = { '$' => '$.new.billing_email', ref => 'tier', by => 'code' } });
	$hub->sql(q(CREATE TABLE app.tier (id integer PRIMARY KEY, code text); SELECT sync.track('app.tier', 'tier');
		ALTER TABLE app.tier RENAME code TO name; SELECT sync.pause('crm')));
	my @id = map { $hub->write("tier $_", $_ == 2 ? (billing_email => 'gold') : ()) } 1 .. 4;
	$hub->sql("SELECT sync.resume('crm')");
	$hub->poll_until('SELECT count(*) = 3 FROM sync.record_status WHERE state = \'synced\' AND record_id IN (' . join(', ', map { "'$_'" } @id) . ')');
	is(state_of($id[1]), 'dead not_rendered', 'is dead');
	like($hub->value("SELECT message FROM sync.pending WHERE record_id = '$id[1]'"), qr/column t\.code does not exist/, '… and says why');
	$hub->sql('ALTER TABLE app.tier RENAME name TO code');
	connector(sub { });
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id[1]'");
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], '… and goes when it can be');
};

$node->stop;
done_testing();

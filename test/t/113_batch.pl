# Records that travel together. Each has its own claim, its own outcome and its own way out of
# trouble: what one of them meets, or the batch as a whole, is lost on nobody and done twice by none.
use strict;
use warnings;

use FindBin;
use JSON::PP ();
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['bulk'],
	options => { bulk => { timeout => '700 ms', settle_time => '100 ms' } });
my $node = $hub->node;
my $sandbox = $hub->sandbox;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $batch_path = '/rest/bulk/_batch';

# The rest waits until all of it is ready.
sub together
{
	my ($work) = @_;

	$hub->sql(q(SELECT sync.pause('bulk')));
	my @result = $work->();
	$hub->sql(q(SELECT sync.resume('bulk')));
	$hub->wait_idle;
	return wantarray ? @result : $result[0];
}

sub requests { return scalar @{ $sandbox->requests(limit => 5000, path => $_[0] // '/rest/') } }

# n new customers in one transaction.
sub write_some
{
	my ($name, $n) = @_;
	my @ids = map { $hub->new_id } 1 .. $n;

	$hub->sql(join '', 'BEGIN;', (map { $hub->insert_sql($ids[ $_ - 1 ], "$name $_") } 1 .. $n), 'COMMIT;');
	return @ids;
}

sub well
{
	my ($name, %option) = @_;

	is_deeply([ $hub->broken(%option) ], [], $name);
	return;
}

# How the attempts of these records ended: outcome, state, step, and whether they travelled.
sub attempts
{
	my ($id) = @_;
	return $hub->sql(qq{SELECT string_agg(concat_ws(' ', CASE WHEN batch IS NULL THEN 'alone' ELSE 'batch' END,
		step, outcome, state), ', ' ORDER BY attempt_id) FROM sync.delivery_attempt WHERE record_id = '$id'});
}

subtest 'together' => sub {
	my @ids = together(sub { write_some('Plain', 250) });

	well('all arrived once');
	is($hub->value(q(SELECT count(*) FROM sync.delivery_attempt WHERE outcome = 'done')), 250, 'an attempt each');
	is($hub->value(q(SELECT count(DISTINCT a.batch) || ' ' || count(*) FILTER (WHERE a.batch IS NULL)
		FROM sync.delivery_attempt a)), requests($batch_path) . ' ' . requests('/rest/bulk/by_ext'), 'one batch a request');
	cmp_ok(requests(), '<=', 6, 'few requests');
	is($hub->value(q(SELECT count(*) FROM (SELECT FROM sync.delivery_attempt WHERE batch IS NOT NULL
		GROUP BY batch HAVING count(*) > 100 OR min(attempt_id) <> batch) b)), 0, 'none too large; named by their first');
	is($hub->value(qq{SELECT method || ' ' || (target LIKE '/rest/bulk/by\\_ext/%') || ' ' || (request::jsonb ->> 'name')
		FROM sync.delivery_attempt WHERE record_id = '$ids[0]'}), 'PUT true Plain 1', 'the claim holds the request as alone');
	is($hub->value(q(SELECT count(*) FROM sync.external_id)), 250, 'all bound');
	$hub->sql("UPDATE app.customer SET name = name || '!', billing_email = 'x'");
	$hub->forget($_) foreach @ids;
	$hub->wait_idle;
	is($sandbox->rest(GET => "/bulk/by_ext/$ids[9]")->{name}, 'Plain 10!', 'and changed');
};

subtest 'alone' => sub {
	my ($id) = write_some('Lonely', 1);
	$hub->wait_idle;
	is(attempts($id), 'alone upsert done done', 'nothing waits to fill a batch up');
};

subtest 'limits count requests' => sub {
	$hub->sql("ALTER SERVER bulk OPTIONS (SET rate_limit '3/s')");
	my $before = requests();
	my $began = time;
	together(sub { write_some('Limited', 800) });
	cmp_ok(requests() - $before, '<=', 10, 'few requests');
	cmp_ok(time - $began, '<', 30, 'as many a second as are allowed, not as many records');
	$hub->sql("ALTER SERVER bulk OPTIONS (SET rate_limit '1000/s')");
	well('all there');
};

subtest 'order per record' => sub {
	together(sub {
		foreach my $round (1 .. 5)
		{
			my @ids = map { $hub->new_id } 1 .. 5;
			$hub->sql(join '', 'BEGIN;', (map { $hub->insert_sql($_, "Order $round.1") } @ids), 'COMMIT;');
			$hub->sql($hub->rename_sql($_, "Order $round.2")) foreach @ids;
		}
	});
	well('one after the other');
	is($hub->value(q(SELECT count(*) FROM (SELECT FROM sync.delivery_attempt WHERE batch IS NOT NULL
		GROUP BY batch, record_id HAVING count(*) > 1) b)), 0, 'no record twice in a batch');
};

subtest 'one is refused' => sub {
	$sandbox->config(rest_refuse => 'Bad');
	my ($bad, @good) = together(sub { (write_some('Bad', 1), write_some('Good', 30)) });
	is(attempts($bad), 'batch upsert rejected dead', 'it is dead');
	is($hub->sql("SELECT code, message, status FROM sync.dead_letter WHERE record_id = '$bad'"),
		'invalid|the record is not acceptable|422', 'with its own error');
	is(attempts($_), 'batch upsert done done', 'a neighbour is not') foreach @good[ 0, 29 ];
	$sandbox->config(rest_refuse => '');
	$hub->sql('SELECT sync.retry(delivery) FROM sync.dead_letter');
	$hub->wait_idle;
	well('a person retries');
};

subtest 'one makes the system refuse all' => sub {
	$sandbox->config(rest_refuse => 'Bad', rest_all_or_nothing => $true);
	my $before = requests();
	my ($bad, @good) = together(sub { (write_some('Bad', 1), write_some('Good', 40), write_some('Fine', 20)) });
	cmp_ok(requests() - $before, '<', 40, 'found by ever smaller batches');
	like(attempts($bad), qr/^(batch upsert rejected queued, )+alone upsert rejected dead$/, 'it is dead');
	like(attempts($_), qr/^(batch upsert rejected queued, )+(batch|alone) upsert done done$/, 'a neighbour is not') foreach $good[0];
	is($hub->value("SELECT max(attempt) FROM sync.delivery_attempt WHERE record_id = '$good[0]'"), 1, 'nor are its attempts counted');
	$sandbox->config(rest_refuse => '', rest_all_or_nothing => $false);
	$hub->sql('SELECT sync.retry(delivery) FROM sync.dead_letter');
	$hub->wait_idle;
	well('a person retries');
};

subtest 'one is missing in the answer' => sub {
	$sandbox->config(rest_forget => 'Lost');
	my ($lost, @good) = together(sub { (write_some('Lost', 1), write_some('Kept', 10)) });
	$sandbox->config(rest_forget => '');
	is(attempts($lost), 'batch upsert ambiguous ambiguous, alone upsert done done', 'sent again, alone');
	is(attempts($good[0]), 'batch upsert done done', 'a neighbour is not');
	well('nothing twice');
};

subtest 'each its own outcome' => sub {
	my %status = (429 => 'throttled queued', 401 => 'auth queued', 503 => 'ambiguous ambiguous', 0 => 'ambiguous ambiguous');
	my %id;

	together(sub {
		@id{ sort keys %status } = write_some('Each', 4);
		my @results = map { { external_id => $id{$_}, status => $_, error => { code => "c$_" } } } 401, 429, 503;
		$sandbox->fault(match => { path => $batch_path }, kind => 'status', status => 207,
			body => JSON::PP::encode_json({ results => \@results }));
	});
	is(attempts($id{$_}), "batch upsert $status{$_}, alone upsert done done", "status $_") foreach sort keys %status;
	is($hub->sql("SELECT string_agg(concat_ws(' ', status, code), ', ' ORDER BY status, code) FROM sync.delivery_attempt
		WHERE record_id IN (" . join(', ', map { "'$_'" } values %id) . ') AND batch IS NOT NULL'),
		'207 bad_answer, 401 c401, 429 c429, 503 c503', 'with its own status and code');
	$sandbox->clear_faults;
	well('each settled');
};

# Whatever befalls the whole, each is settled alone, and never in another company.
my %uncounted = (throttled => 1);
my @faults = (
	[ 'throttled', kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, body => '{}' ],
	[ 'server error before', kind => 'status', status => 503, body => '{"message": "down"}' ],
	[ 'reset after', kind => 'reset_after' ],
	[ 'truncated', kind => 'truncated' ],
	[ 'time-out after the effect', kind => 'timeout_after_effect', ms => 1200 ],
	[ 'late effect', kind => 'late_effect', ms => 50, hold_ms => 10 ],
	[ 'garbage', kind => 'garbage', effect => $true ],
	[ 'no list', kind => 'status', status => 200, body => '{"odd": 1}', effect => $true ]);

foreach my $fault (@faults)
{
	my ($name, %rule) = @$fault;
	my $before = requests($batch_path);

	$sandbox->fault(match => { path => $batch_path }, %rule);
	my @ids = together(sub { my @some = write_some($name, 8); $hub->rename($some[0], "$name again"); @some });
	well($name);
	is($sandbox->faults->[0]{hits}, 1, "$name was exercised");
	$sandbox->clear_faults;
	my $second = $uncounted{$name} ? 'batch' : 'alone';
	my $first = $uncounted{$name} ? 'batch upsert throttled queued' : 'batch upsert ambiguous ambiguous';
	is(attempts($ids[7]), "$first, $second upsert done done", "$name: then $second");
}

subtest 'the hub dies' => sub {
	foreach my $point (qw(push-claiming push-claimed push-submitted push-answered push-recording))
	{
		$hub->sql(q(SELECT sync.pause('bulk')));
		my @ids = write_some("Crash $point", 12);
		my $offset = $hub->log_size;
		$hub->arm($point, 'wait');
		$hub->sql(q(SELECT sync.resume('bulk')));
		$hub->reached($point);
		kill 'KILL', $hub->hub_pid;
		$hub->disarm($point);
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
		$hub->wait_up;
		$hub->wait_running;
		$hub->wait_idle;
		well("kill -9 at $point");
		like(attempts($ids[3]), qr/^batch upsert done done$/, 'in time') if $point eq 'push-claiming';
		like(attempts($ids[3]), qr/^batch upsert ambiguous ambiguous, alone upsert done done$/, 'settled alone')
		  if $point =~ /claimed|submitted|answered/;
	}
};

subtest 'looking without sending' => sub {
	my ($id) = write_some('Preview', 1);
	$hub->wait_idle;
	is($hub->sql("SELECT n, step, state, method, replace(url, '" . $sandbox->url . "', ''), body::jsonb FROM sync.preview('bulk', 'customer', '$id')"),
		"1|upsert|ready|PUT|/rest/bulk/by_ext/$id|{\"name\": \"Preview 1\"}\n"
		  . "1|upsert|batch|POST|/rest/bulk/_batch|{\"items\": [{\"name\": \"Preview 1\", \"external_id\": \"$id\"}]}", 'preview shows both');
	my $before = requests();
	$hub->sql("ALTER SERVER bulk OPTIONS (ADD mode 'dry_run')");
	my @ids = write_some('Dry', 5);
	$hub->wait_idle;
	is($hub->sql("SELECT outcome, message FROM sync.delivery_attempt WHERE record_id = '$ids[4]'"),
		'rendered|in a batch of 5: POST /rest/bulk/_batch', 'dry run says what it would travel in');
	is(requests(), $before, 'nothing was sent');
	$hub->forget($_) foreach @ids;
	$hub->sql('ALTER SERVER bulk OPTIONS (DROP mode)');
};

sub manifest
{
	my ($version) = @_;
	my $manifest = JSON::PP::decode_json(SyncExt::Hub::manifest('rest_batch'));

	$manifest->{version} = $version;
	return ($manifest, $manifest->{objects}{customer}{push}{operations});
}

sub register
{
	my ($manifest) = @_;
	return $hub->sql('SELECT sync.register_connector($m$' . JSON::PP::encode_json($manifest) . '$m$::jsonb)');
}

# Records that the answer could not tell apart, and more than a request may hold.
subtest 'who may travel with whom' => sub {
	my ($manifest, $operations) = manifest('2');
	my $batch = $operations->{upsert}{batch};

	$batch->{max_bytes} = 1500;
	$batch->{answers}{ours} = '$.new.billing_email';
	$batch->{answers}{theirs} = '$.record.email';
	register($manifest);
	my $before = requests($batch_path);
	my @ids = map { $hub->new_id } 1 .. 40;
	together(sub {
		$hub->sql(join '', 'BEGIN;', (map { $hub->insert_sql($ids[$_], "Mail $_", billing_email => 'm' . $_ % 20 . '@example.com') } 0 .. 39), 'COMMIT;');
	});
	well('all there');
	is($hub->value(q(SELECT count(*) FROM (SELECT FROM sync.delivery_attempt WHERE batch IS NOT NULL AND connector = 'rest_batch 2'
		GROUP BY batch, request::jsonb ->> 'email' HAVING count(*) > 1) b)), 0, 'never two that are known by the same');
	is(attempts($_), 'batch upsert done done', 'each bound by its own answer') foreach @ids[ 0, 39 ];
	my @bodies = grep { /Mail \d/ } map { $_->{body} // '' } @{ $sandbox->requests(limit => 5000, path => $batch_path) };
	is(scalar(@bodies), requests($batch_path) - $before, 'several batches');
	is(scalar(grep { length > 1500 } @bodies), 0, 'none larger than allowed');
};

# What was made in a batch did not carry its key there: it is looked up, not repeated under it.
subtest 'creates with a key that travel without it' => sub {
	my ($manifest, $operations) = manifest('3');
	my $create = delete $operations->{upsert};

	$sandbox->config(rest_honours_keys => $true);
	$manifest->{idempotency} = { header => 'Idempotency-Key', lifetime => '1 day', methods => ['POST'] };
	@$create{qw(method path)} = (POST => '/rest/bulk');
	$create->{body}{external_id} = '$.id';
	$operations->{create} = $create;
	$operations->{lookup} = { path => '/rest/bulk', query => { external_id => '$.id' },
		response => { items => '$.data', remote_id => '$.id' } };
	register($manifest);

	$sandbox->fault(match => { path => $batch_path }, kind => 'timeout_after_effect', ms => 1200);
	my @ids = together(sub { write_some('Made', 5) });
	well('made once');
	is(attempts($ids[2]), 'batch create ambiguous ambiguous, alone lookup done done', 'looked up');
	$sandbox->clear_faults;

	$sandbox->fault(match => { path => $batch_path }, kind => 'reset_before');
	@ids = together(sub { write_some('Unmade', 5) });
	well('made in the end');
	is(attempts($ids[2]), 'batch create ambiguous ambiguous, alone lookup done ambiguous, alone lookup done queued, alone create done done',
		'looked up twice, then made alone');
	$sandbox->clear_faults;

	my $offset = $hub->log_size;
	$hub->sql(q(SELECT sync.pause('bulk')));
	@ids = write_some('Dead', 5);
	$hub->arm('push-answered', 'wait');
	$hub->sql(q(SELECT sync.resume('bulk')));
	$hub->reached('push-answered');
	kill 'KILL', $hub->hub_pid;
	$hub->disarm('push-answered');
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$hub->wait_up;
	$hub->wait_running;
	$hub->wait_idle;
	well('made once, although nobody heard');
	is(attempts($ids[2]), 'batch create ambiguous ambiguous, alone lookup done done', 'looked up after the crash, too');
};

$node->stop;
done_testing();

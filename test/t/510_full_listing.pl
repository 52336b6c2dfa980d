# A full reconciliation lists all that a system has and finds exactly what differs: with a vendor that
# misbehaves, while both sides are written, and with the hub killed in the middle.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('main', systems => []);
my $sandbox = $hub->sandbox;
my $node = $hub->node;

# The shared manifest with small pages and a count; and one that cannot read a record by id.
sub variant
{
	my ($name, $change) = @_;
	my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));

	$manifest->{name} = $name;
	$change->($manifest->{objects}{customer}{pull});
	my $text = $json->encode($manifest);
	return $hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
}
variant(paged => sub {
	my ($pull) = @_;
	$pull->{list}{page_size} = 10;
	$pull->{count} = { path => '/rest/customers', query => { per_page => 1 }, count => '$.total' };
});
variant(by_list => sub {
	my ($pull) = @_;
	$pull->{list}{page_size} = 10;
	delete $pull->{fetch};
});

$node->secret('crm', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql("CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'paged', base_url '" . $sandbox->url . "', settle_time '300 ms', rate_limit '1000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER crm OPTIONS (token 'file:token');
	ALTER TABLE app.customer ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
	SELECT sync.create_route('crm', 'customer');
	SELECT sync.create_stream('crm', 'customer')");

my $LIST = { path => '/rest/customers', method => 'GET', exact => \1 };

sub remote_id { my ($id) = @_; return $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')") }

# Begins a run in mode full; returns its id.
sub begin
{
	return $hub->value(q(SELECT sync.reconcile('crm', 'customer', mode => 'full')));
}

sub job { my ($run, $column) = @_; return $hub->value("SELECT j.$column FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id = $run") }

sub finish
{
	my ($run, $while) = @_;
	my $ended = eval {
		$hub->wait_until("run $run to end", sub {
			# the server may be on its way up again
			eval { $while->() } if $while;
			return (eval { job($run, 'state') } // '') =~ /^(done|failed|stopped)$/;
		}, 60);
	};
	is(job($run, 'state'), 'done', "run $run has ended") or diag($hub->sql('SELECT * FROM sync.job ORDER BY id DESC LIMIT 1'));
	die "run $run does not end\n" if !$ended;
	return;
}

# Open breaks as sorted lines: kind, what it is about, field.
sub breaks
{
	return [ sort split /\n/, $hub->sql(q(SELECT kind || ' ' || coalesce(remote_id, record_id) || coalesce(' ' || field, '')
		FROM sync.break_entry WHERE status <> 'resolved')) ];
}

sub settled { return $hub->value('SELECT count(*) FROM sync.listed_record') + $hub->value('SELECT count(*) FROM sync.listed_suspect') }

# ---- what agrees ----

my @id = map { $hub->write("Customer $_", billing_email => "c$_\@example.com") } 1 .. 55;
$hub->wait_idle;
my $run = begin();
finish($run);
is_deeply(breaks(), [], 'what agrees has no breaks');
is(job($run, "result ->> 'told_count'"), 55, 'the system was asked how many it has');
is(job($run, "result ->> 'listed'"), 55, 'and as many were listed');
is($hub->value("SELECT state || ' ' || checked FROM sync.reconciliation WHERE id = $run"), 'done 55', 'each was compared');
is(settled(), 0, 'nothing is left of the listing');
like($hub->sql(q(SELECT kind, phase, state, done, total, remaining IS NULL FROM sync.progress WHERE job IS NOT NULL)), qr/^full_listing\|clearing\|done\|55\|55\|t$/m,
	'progress shows it, and all that it compared');

# ---- what differs: each kind, and nothing else ----

my %planted;

sub plant
{
	my ($n) = @_;

	my $extra = $sandbox->rest(POST => '/customers', { name => "Extra $n" })->{id};
	$planted{"missing_here $extra"} = 1;
	my $deleted = shift @id;
	$sandbox->rest(DELETE => '/customers/' . remote_id($deleted));
	$planted{'missing_there ' . remote_id($deleted)} = 1;
	my $changed = shift @id;
	$sandbox->rest(PATCH => '/customers/' . remote_id($changed), { name => "Changed $n" });
	$planted{'field_differs ' . remote_id($changed) . ' name'} = 1;
	my $orphan = shift @id;
	my $lost = $hub->new_id;
	$planted{'orphan ' . remote_id($orphan)} = 1;
	$planted{"missing_there $lost"} = 1;
	$hub->sql("SET session_replication_role = replica; DELETE FROM app.customer WHERE id = '$orphan';
		INSERT INTO app.customer (id, name) VALUES ('$lost', 'Lost $n')");
	return;
}

plant(1);
finish($run = begin());
is_deeply(breaks(), [ sort keys %planted ], 'each kind of break is found, and nothing else');
is($hub->value("SELECT found || ' ' || opened || ' ' || closed FROM sync.reconciliation WHERE id = $run"), '5 5 0', 'the run counts them');
# 55 of ours are bound, one of those is no more here and one is lost; they have one more and one less, and an orphan.
is($hub->value("SELECT our_count || ' ' || their_count || ' ' || unexplained_count FROM sync.reconciliation_total WHERE reconciliation_id = $run"), '55 55 4',
	'and both sides');
is($hub->value(q(SELECT ours::text || ' ' || theirs::text FROM sync.break_entry WHERE kind = 'field_differs')), '"Customer 2" "Changed 1"', 'with both values');
finish($run = begin());
is($hub->value("SELECT found || ' ' || opened || ' ' || closed FROM sync.reconciliation WHERE id = $run"), '5 0 0', 'a second run finds the same ones');
is($hub->value(q(SELECT min(times_seen) || ' ' || max(times_seen) FROM sync.break_entry)), '2 2', 'and opens none twice');
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name LIKE 'Changed%' OR name LIKE 'Extra%')), 0, 'reconciling changed nothing of ours');

# ---- a vendor that misbehaves, writers on both sides, and a hub that dies ----

plant(2);
my $n = 0;
sub live
{
	$n++;
	my $id = $id[ $n % @id ];
	my $there = remote_id($id);
	$hub->rename($id, "Live $n");
	$hub->write("New $n") if $n % 3 == 0;
	return if $n % 4;
	# somebody over there, and the stream brings it
	$sandbox->rest(PATCH => "/customers/$there", { email => "live$n\@example.com" });
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	return;
}
# The stream polls by itself from here on, so what changes there is on its way.
$hub->sql(q(UPDATE sync.stream SET every = '1 s'));
$hub->wait_idle;
foreach my $fault ({ kind => 'latency', ms => 150, times => -1, match => $LIST },
	{ kind => 'status', status => 500, times => 2, match => { %$LIST, every => 3 } },
	{ kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, times => 1, match => { %$LIST, nth => 4 } },
	{ kind => 'garbage', times => 1, match => { %$LIST, nth => 5 } },
	{ kind => 'reset_mid_body', times => 1, match => { %$LIST, nth => 6 } })
{
	$sandbox->fault(%$fault);
}
my $offset = $hub->log_size;
$run = begin();
$hub->poll_until("SELECT j.cursor ? 'walk' FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id = $run");
$hub->arm('listing_before_commit', 'kill');
$hub->wait_until('the hub to die', sub { eval { live() }; return !$hub->armed('listing_before_commit') });
$hub->wait_crash('listing_before_commit', $offset);
$offset = $hub->log_size;
$hub->arm('listing_after_commit', 'kill');
$hub->wait_crash('listing_after_commit', $offset);
$offset = $hub->log_size;
$hub->arm('listing_read_before_commit', 'kill');
finish($run, sub { live() if $n < 60 });
$hub->disarm('listing_read_before_commit');
$sandbox->clear_faults;
$hub->wait_idle;
is(job($run, 'failures'), 0, 'no failure is left');
my @false = grep { my $break = $_; !$planted{$break} } @{ breaks() };
is_deeply(\@false, [], 'no false break, with everything going on');
my %found = map { $_ => 1 } @{ breaks() };
is_deeply([ grep { !$found{$_} } grep { /^orphan|^missing_there 0000/ } keys %planted ], [], 'and what no pull can bring is found');
cmp_ok($n, '>', 5, "$n changes went on meanwhile");

# ---- pause, resume, stop ----

$hub->sql(q(UPDATE sync.stream SET every = NULL));
$sandbox->fault(kind => 'latency', ms => 300, times => -1, match => $LIST);
$run = begin();
$hub->poll_until("SELECT j.cursor ? 'walk' FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id = $run");
my $job = job($run, 'id');
# A person who has the job in hand and does not commit holds up nothing but the job.
my $person = $node->background_psql($hub->database);
$person->query_safe("BEGIN; SELECT sync.pause_job($job)");
my $held = job($run, 'done');
$hub->write('While somebody thinks');
$hub->poll_until('SELECT NOT EXISTS (SELECT FROM sync._unfinished)');
is(job($run, 'done'), $held, 'a job that somebody has in hand stands still, and nothing else does');
$person->query_safe('ROLLBACK');
$person->quit;
$hub->poll_until("SELECT done > $held FROM sync.job WHERE id = $job");
$hub->sql("SELECT sync.pause_job($job)");
my $done = job($run, 'done');
my $asked = @{ $sandbox->requests(limit => 5000) };
like(eval { begin(); '' } // $@, qr/SE081|is being listed already/, 'a second listing of the same is refused meanwhile');
$hub->wait_idle;
is(job($run, 'done'), $done, 'a paused listing keeps no page');
$hub->sql("SELECT sync.resume_job($job)");
$hub->poll_until("SELECT done > $done FROM sync.job WHERE id = $job");
$hub->sql("SELECT sync.stop_job($job, 'enough')");
is($hub->value("SELECT state || ' ' || error FROM sync.reconciliation WHERE id = $run"), 'stopped its job was stopped', 'a stopped job ends its run');
$sandbox->clear_faults;
$hub->sql('SELECT sync._clear_listed()');
is(settled(), 0, 'what it had listed is cleared away');

# ---- behind live traffic ----

# More pages than the limit lets through while the writes go.
$hub->wait_idle;
$hub->sql(q(ALTER SERVER crm OPTIONS (SET rate_limit '40/s')));
finish(begin(), do {
	my $written = 0;
	sub {
		return if $written || !$hub->value(q(SELECT EXISTS (SELECT FROM sync.job WHERE state = 'running' AND cursor ? 'walk')));
		$written = 1;
		$hub->sql(join ' ', map { $hub->rename_sql($_, "Burst $_") } @id);
	};
});
$hub->wait_idle;
my $burst = join '', map { ($_->{body} // '') =~ /Burst/ ? 'w' : $_->{path} eq '/rest/customers' ? 'r' : '-' } @{ $sandbox->requests(limit => 300) };
$burst =~ s/^[^w]*|[^w]*$//g;
cmp_ok($burst =~ tr/w//, '>', 30, 'changes went out while everything was listed');
cmp_ok($burst =~ tr/r//, '<=', ($burst =~ tr/w//) / 8 + 1, 'and its pages took one turn in many') or diag($burst);
$hub->sql(q(ALTER SERVER crm OPTIONS (SET rate_limit '1000/s')));

# ---- a system that refuses fails the job, and the person goes on with it ----

$sandbox->fault(kind => 'status', status => 403, times => -1, match => $LIST);
$run = begin();
$hub->poll_until("SELECT j.failures > 0 FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id = $run");
like(job($run, 'last_error'), qr/403/, 'a refusal is told');
$sandbox->clear_faults;
finish($run);

# ---- a connector that cannot read by id lists twice ----

$hub->sql(q(ALTER SERVER crm OPTIONS (SET connector 'by_list')));
my $before = @{ $sandbox->requests(limit => 5000, path => '/rest/customers') };
finish($run = begin());
is(job($run, "cursor ->> 'second'"), 'true', 'suspects that cannot be read by id are listed again');
is_deeply([ grep { my $break = $_; !$planted{$break} } @{ breaks() } ], [], 'with no false break');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'no invariant is broken');

done_testing;

# Backfills: what a system does not have yet is sent once and in order while applications go on writing,
# through crashes, pauses and locks; what it has is fetched; a route that fell behind is healed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('main', no_routes => 1);
my $sandbox = $hub->sandbox;
my $node = $hub->node;

my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));
$manifest->{objects}{customer}{pull}{list}{page_size} = 10;
my $text = $json->encode($manifest);
$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb);
	ALTER TABLE app.customer ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()");

sub job { my ($job, $column) = @_; return $hub->value("SELECT $column FROM sync.job WHERE id = $job") }

sub ends
{
	my ($job, $while) = @_;
	my $ended = eval {
		$hub->wait_until("job $job to end", sub {
			eval { $while->() } if $while;
			return (eval { job($job, 'state') } // '') =~ /^(done|failed|stopped)$/;
		}, 60);
	};
	is(job($job, 'state'), 'done', "job $job has ended") or diag($hub->sql("SELECT * FROM sync.job WHERE id = $job"));
	die "job $job does not end\n" if !$ended;
	return;
}

sub backfill { my (@args) = @_; return $hub->value('SELECT sync.backfill(' . join(', ', @args) . ')') }

# How many records a system was told of.
sub there { my ($system) = @_; return scalar keys %{ $hub->effects_of($system) } }

# ---- into systems that have nothing, while apps write ----

my @id = map { $hub->write("Customer $_", billing_email => "c$_\@example.com") } 1 .. 60;
$hub->sql("SELECT sync.create_route('$_', 'customer')") foreach qw(billing crm);
$hub->wait_idle;
is(there('crm') + there('billing'), 0, 'a route that starts now sends nothing of before');

my $n = 0;
sub live
{
	$n++;
	$hub->rename($id[ ($n * 7) % @id ], "Live $n");
	$hub->write("New $n") if $n % 5 == 0;
	return;
}
$sandbox->fault(kind => 'latency', ms => 20, times => -1, match => { method => 'POST' });
$sandbox->fault(kind => 'status', status => 500, times => 3, match => { method => 'POST', every => 9 });
my $crm = backfill(q('crm', 'customer'));
my $billing = backfill(q('billing', 'customer', reason => 'history'));
foreach my $point (qw(job-stepping job-stepped job-stepping push-scanned))
{
	my $offset = $hub->log_size;
	$hub->arm($point, 'kill');
	$hub->wait_crash($point, $offset);
	$hub->rename($id[ 3 * $n++ ], "Between $n");
}
ends($crm, sub { live() if $n < 40 });
ends($billing);
$sandbox->clear_faults;
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'every record is there, once, and as it was written last');
is(job($crm, "result ->> 'there'") + job($crm, "result ->> 'sent'") + job($crm, "coalesce(result ->> 'on_its_way', '0')"),
	job($crm, 'done'), 'each that was looked at is counted');
is($hub->value("SELECT count(*) FROM sync.outbox WHERE context ->> 'actor' = 'postgres' AND context ->> 'correlation_id' = 'backfill $crm'"),
	job($crm, "result ->> 'sent'"), 'its events tell whose they are');
my $effects = @{ $sandbox->effects };
my $again = backfill(q('crm', 'customer'));
ends($again);
is($#{ $sandbox->effects } + 1, $effects, 'a second one sends nothing');
is(job($again, "result ->> 'sent'"), undef, 'and says so');

# ---- a row that an application keeps locked, a window, a filter, a rate, a pause ----

$hub->sql(q(SELECT sync.drop_route('customer_to_crm')));
my @late = map { $hub->write("Late $_") } 1 .. 20;
my $since = $hub->value('SELECT clock_timestamp()');
my @later = map { $hub->write("Later $_") } 1 .. 30;
$hub->sql(q(SELECT sync.create_route('crm', 'customer')));
$hub->wait_idle;
my $before = there('crm');
my $filtered = backfill(qq('crm', 'customer', since => '$since', filter => 'name ~ ''[13579]\$'''));
ends($filtered);
is(there('crm') - $before, 15, 'a window and a filter say which are sent');
is(job($filtered, "result ->> 'filtered'"), 15, 'what the filter leaves out is counted');

my $holder = $node->background_psql($hub->database);
$holder->query_safe("BEGIN; SELECT 1 FROM app.customer WHERE id = '$late[0]' FOR UPDATE");
my $paused = backfill(q('crm', 'customer', rate => 20));
$hub->poll_until("SELECT done > 0 FROM sync.job WHERE id = $paused");
$hub->sql("SELECT sync.pause_job($paused)");
my $done = job($paused, 'done');
$hub->wait_idle;
is(job($paused, 'done'), $done, 'a paused backfill goes no further');
is($hub->value("SELECT state || ' ' || (estimate IS NULL) FROM sync.progress WHERE job = $paused"), 'paused true', 'progress shows it');
$hub->sql("SELECT sync.resume_job($paused)");
$hub->poll_until("SELECT cursor ? 'again' AND done >= total - 1 FROM sync.job WHERE id = $paused");
is(job($paused, 'state'), 'running', 'a locked row is waited for');
my $seen = $hub->value("SELECT count(*) FROM sync.pending") + there('crm');
$holder->query_safe("UPDATE app.customer SET name = 'Late, and changed' WHERE id = '$late[0]'; COMMIT");
$holder->quit;
push @{ $hub->{states}{ $late[0] } }, 'Late, and changed';
ends($paused);
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'and sent as its holder left it');
cmp_ok($hub->value("SELECT extract(epoch FROM finished_at - started_at) FROM sync.job WHERE id = $paused"), '>', 1, 'no faster than its rate');

$hub->sql(q(SELECT sync.stop_job(sync.backfill('crm', 'customer'), 'enough')));
is($hub->value('SELECT state FROM sync.job ORDER BY id DESC LIMIT 1'), 'stopped', 'a backfill can be stopped');

# ---- a route that fell behind ----

$hub->sql(q(SELECT sync.pause('crm')));
$hub->rename($id[0], 'Changed in the dark');
my $dark = $hub->write('Made in the dark');
$hub->sql(q(UPDATE sync.outbox SET at = at - interval '10 days'; SELECT sync._upkeep_history(); SELECT sync._upkeep()));
is($hub->value(q(SELECT state FROM sync.route WHERE name = 'customer_to_crm' AND state <> 'dropped')), 'needs_backfill', 'a route fell behind');
$hub->sql(q(SELECT sync.resume('crm')));
my $healed = backfill(q('crm', 'customer'));
ends($healed, sub { live() if $n < 60 });
$hub->wait_idle;
is($hub->value(q(SELECT state FROM sync.route WHERE name = 'customer_to_crm' AND state <> 'dropped')), 'active', 'a backfill heals it');
is_deeply([ $hub->broken ], [], 'and brings what it missed, changes and records');
is($hub->effects_of('crm')->{$dark}[-1]{name}, 'Made in the dark', 'a record that it had not');
is($hub->sql(q(SELECT "check" FROM sync.health() WHERE "check" LIKE 'notice lag%')), '', 'nothing is left of the alarm');

# ---- out of a system: all that it has, by a stream that began later ----

my @remote = map { $sandbox->rest(POST => '/customers', { name => "Theirs $_", email => "t$_\@example.com" })->{id} } 1 .. 45;
$hub->sql(q(SELECT sync.create_stream('crm', 'customer', '1 s', since => clock_timestamp() + interval '1 hour')));
$sandbox->fault(kind => 'latency', ms => 100, times => -1, match => { path => '/rest/customers', method => 'GET', exact => \1 });
my $count = $hub->value('SELECT count(*) FROM app.customer');
# a record that is bound and was changed there, too
$sandbox->rest(PATCH => "/customers/" . $hub->value("SELECT sync.remote_id('customer', '$late[1]', 'crm')"), { name => 'Renamed over there' });
push @{ $hub->{states}{ $late[1] } }, 'Renamed over there';
my $offset = $hub->log_size;
$hub->arm('listing_after_commit', 'kill');
my $pull = backfill(q('crm', 'customer', 'pull', reason => 'what was there'));
$hub->wait_crash('listing_after_commit', $offset);
$offset = $hub->log_size;
$hub->arm('listing_before_commit', 'kill');
$hub->wait_crash('listing_before_commit', $offset);
ends($pull, sub { live() if $n < 80 });
$sandbox->clear_faults;
$hub->wait_idle;
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name LIKE 'Theirs%')), 45, 'all that it had is here, once');
is($hub->value("SELECT name FROM app.customer WHERE id = '$late[1]'"), 'Renamed over there', 'and what changed there, too');
is($hub->value("SELECT count(DISTINCT remote_id) FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id WHERE y.name = 'crm' AND remote_id IN ('" . join("', '", @remote) . "')"),
	45, 'bound to its records');
is($hub->value(q(SELECT count(*) FROM app.customer c WHERE NOT EXISTS (SELECT FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
	WHERE y.name = 'crm' AND x.record_id = c.id::text))), 0, 'nothing of ours was taken for something else');
is_deeply([ grep { !/^billing: .* never arrived/ } $hub->broken ], [], 'and nothing that was written meanwhile was overwritten');

done_testing;

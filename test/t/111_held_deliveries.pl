# What needs a person or a vendor to come back: answers that cannot be used,
# refused credentials, dead systems, dead letters, and what stands behind them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(time);

my $other = SyncExt::Sandbox->start;
my $hub = SyncExt::Hub->new('main',
	conf => "sync_ext.max_response = 64kB\n",
	options => { billing => { timeout => '2 s' }, crm => { timeout => '2 s' } });
my $node = $hub->node;
my $sandbox = $hub->sandbox;
my %path = (billing => '/v1/customers', crm => '/rest/customers');

sub fault
{
	my ($system, %rule) = @_;
	my $match = delete $rule{match} // {};
	return $sandbox->fault(match => { path => $path{$system}, method => 'POST', %$match }, %rule);
}

sub sound
{
	my ($name) = @_;
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], $name);
	return;
}

sub held
{
	my ($id) = @_;
	return $hub->sql("SELECT system, code, message, behind FROM sync.dead_letter WHERE record_id = '$id' ORDER BY system");
}

# ---- answers too large, or that lead elsewhere ----

foreach my $system (qw(billing crm))
{
	my $id;

	fault($system, kind => 'huge', bytes => 300_000);
	$hub->write("huge $system");
	sound("a huge answer of $system");
	fault($system, kind => 'infinite');
	$hub->write("infinite $system");
	sound("an answer of $system without end");
	$sandbox->clear_faults;

	fault($system, kind => 'redirect', location => $other->url . $path{$system}, times => 1);
	$id = $hub->write("redirected $system");
	$hub->wait_idle;
	like(held($id), qr/^$system\|[^|]*\|[^|]*307/m, "a redirect of $system is an error that says so");
	is(scalar @{ $other->requests }, 0, 'and nobody follows it');
	$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$id'");
	sound("sent where it belongs after retry at $system");
	$sandbox->clear_faults;
}

# ---- credentials ----

fault('billing', kind => 'status', status => 401, body => '{"error": {"message": "Invalid API Key"}}', times => 2);
$hub->write('unauthorized once');
sound('a 401 that goes by itself');
$sandbox->clear_faults;

$node->secret('billing', 'api_key', 'sk_test_wrong');
my $locked_out = $hub->write('wrong key');
$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.health() WHERE "check" = 'notice auth:billing')));
like($hub->sql(q(SELECT detail FROM sync.health() WHERE "check" = 'notice auth:billing')), qr/refuses our credentials/,
	'wrong credentials are in health()');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$locked_out' AND system = 'crm' AND state = 'synced')");
pass('the neighbour goes on meanwhile');
is($hub->value("SELECT state FROM sync.record_status WHERE record_id = '$locked_out' AND system = 'billing'"), 'queued',
	'and nothing is dead');
$node->secret('billing', 'api_key', $SyncExt::Hub::STRIPE_KEY);
sound('a corrected secret is read again');
is($hub->value(q(SELECT count(*) FROM sync.health() WHERE "check" = 'notice auth:billing')), 0, 'the notice is gone');

# ---- a system that is gone, and one that hangs ----

my $port = $other->port;
$node->append_conf('postgresql.conf', "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $sandbox->port . ", http://127.0.0.1:$port'");
$node->reload;
$hub->add_system('third', kind => 'crm', base_url => $other->url, settle_time => '300 ms', rate_limit => '1000/s');
$hub->sql(q(SELECT sync.create_route('third', 'customer')));
$other->stop;
my @gone = map { $hub->write("while one is gone $_") } 1 .. 20;
$hub->poll_until(q(SELECT queued + in_flight + retry + ambiguous = 0 FROM sync.system_status WHERE system = 'billing'));
pass('the neighbours get everything while a system is gone');
is($hub->value(q(SELECT dead FROM sync.system_status WHERE system = 'third')), 0, 'nothing for it is dead');
is($hub->value(q(SELECT queued + in_flight + retry + ambiguous FROM sync.system_status WHERE system = 'third')), 20, 'all of it waits');
$other = SyncExt::Sandbox->start(port => $port);
sound('all goes on when it is back');
is_deeply([ sort map { $_->{external_id} } @{ $other->effects } ], [ sort @gone ], 'and arrives there, once');
$hub->sql(q(SELECT sync.drop_route('customer_to_third')));

kill 'STOP', $sandbox->pid;
my $began = time;
my @hung = map { $hub->write("while all hang $_") } 1 .. 10;
$hub->rename($hung[0], 'while all hang 1, changed');
cmp_ok(time - $began, '<', 5, 'the app does not wait for a system that hangs');
$hub->poll_until(q(SELECT count(*) > 0 FROM sync.pending WHERE state = 'ambiguous'));
kill 'CONT', $sandbox->pid;
sound('nothing is lost or doubled when it goes on');

# ---- dead letters ----

my $poison = $hub->write('poison', billing_email => 'not an address');
$hub->sql("UPDATE app.customer SET billing_email = 'still not' WHERE id = '$poison'");
$hub->sql("UPDATE app.customer SET billing_email = 'poison\@example.com' WHERE id = '$poison'");
my $healthy = $hub->write('healthy');
$hub->wait_idle;
like(held($poison), qr/^billing\|email_invalid\|[^|]*Invalid email[^|]*\|[12]$/, 'the dead letter has the vendor\'s message, and what is behind')
  or diag(held($poison));
is($hub->value("SELECT state FROM sync.record_status WHERE record_id = '$healthy' AND system = 'billing'"), 'synced',
	'others pass by');
is($hub->value("SELECT state FROM sync.record_status WHERE record_id = '$poison' AND system = 'crm'"), 'synced',
	'the neighbour has it');
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$poison'");
$hub->wait_idle;
like(held($poison), qr/email_invalid/, 'a retry of what is still wrong is dead again');
$hub->sql("SELECT sync.discard(id, 'the address was wrong') FROM sync.dead_letter WHERE record_id = '$poison'");
sound('after discard the later changes go on');
is($sandbox->stripe(GET => '/v1/customers/search', { query => "metadata['sync_id']:'$poison'" })->{data}[0]{email}, 'poison@example.com',
	'and arrive');
is_deeply([ split /\n/, $hub->sql("SELECT state FROM sync.delivery WHERE record_id = '$poison' AND system = 'billing' ORDER BY seq") ],
	[ 'discarded', 'merged', 'done' ], 'history tells what became of each');

# A stored error is told again under the same key: the person's retry needs a new one.
fault('billing', kind => 'status', status => 402, store => \1,
	body => '{"error": {"message": "Your card was declined.", "code": "card_declined", "type": "card_error"}}');
my $stored = $hub->write('stored error');
$hub->wait_idle;
like(held($stored), qr/card_declined\|Your card was declined/, 'a refusal that the vendor stored');
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$stored'");
sound('is not repeated for ever');

$node->stop;
done_testing();

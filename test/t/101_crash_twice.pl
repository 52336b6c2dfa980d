# Crashes upon crashes: while a lost answer is being settled, between a call's
# claim and its request, and around a pulled page.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main');
my $node = $hub->node;
my $sandbox = $hub->sandbox;

sub die_at
{
	my ($point, $trigger) = @_;

	$hub->arm($point, 'wait');
	$trigger->() if $trigger;
	$hub->reached($point);
	$hub->power_off;
	$hub->disarm($point);
	$node->start;
	return;
}

sub settled
{
	my ($name) = @_;

	$hub->wait_running;
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], $name);
	return;
}

$hub->write('warm');
settled('before');

# The request is lost with the first crash; each later one hits what settles it:
# the look-up, its answer, and the repetition. Dead again each time.
foreach my $lost (0, 1)
{
	my $id;

	$sandbox->fault(kind => 'reset_before', times => 2, match => { method => 'POST' }) if $lost;
	die_at('push-submitted', sub { $id = $hub->write("twice $lost.1"); $hub->rename($id, "twice $lost.2") });
	foreach my $point (qw(push-claimed push-claiming push-submitted push-answered push-recorded push-claimed push-submitted))
	{
		$hub->wait_running;
		last if $hub->value(q(SELECT count(*) = 0 FROM sync._unfinished)) eq 't';
		$hub->arm($point, 'wait');
		# What is left may end without passing this point again.
		my $end = time + 8;
		select(undef, undef, undef, 0.05)
		  while !-e "$hub->{crash_dir}/$point.reached" && time < $end
		  && $hub->value(q(SELECT count(*) = 0 FROM sync._unfinished)) eq 'f';
		$hub->power_off;
		$hub->disarm($point);
		$node->start;
	}
	settled('a crash in each step of settling a crash' . ($lost ? ', the request lost' : ''));
	$sandbox->clear_faults;
}

# ---- calls ----

my $call;
die_at('call-claimed', sub {
	$call = $hub->value(q(SELECT sync.call('billing', 'customer.create', '{"id": "called", "name": "by call"}'))) });
$hub->wait_running;
$hub->poll_until("SELECT state IN ('done', 'failed', 'ambiguous') FROM sync.api_call WHERE id = $call");
is($hub->value("SELECT state FROM sync.api_call WHERE id = $call"), 'done', 'a call is repeated under its key');
is_deeply([ map { $_->{executions} } grep { $_->{key} =~ /call/ } @{ $sandbox->keys } ], [1], 'and took effect once');
die_at('call-claimed', sub {
	$call = $hub->value(q(SELECT sync.call('crm', 'customer.create', '{"id": "called", "name": "by call"}'))) });
$hub->wait_running;
$hub->poll_until("SELECT state IN ('done', 'failed', 'ambiguous') FROM sync.api_call WHERE id = $call");
is($hub->value("SELECT state FROM sync.api_call WHERE id = $call"), 'ambiguous', 'without keys the caller decides');

# ---- pulled pages ----

$hub->sql(q(SELECT sync.create_stream('crm', 'customer')));
my $n = 0;
foreach my $point (qw(pull_applied pull_before_commit pull_after_commit))
{
	$n++;
	die_at($point, sub {
		$sandbox->rest(POST => '/customers', { name => "pulled $n" }, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
		$hub->sql(q(SELECT sync.request_pull('crm', 'customer'))) });
	$hub->wait_running;
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	$hub->wait_idle;
	is($hub->value("SELECT count(*) FROM app.customer WHERE name = 'pulled $n'"), 1, "a page is applied once beside a crash at $point");
	is($hub->value("SELECT count(*) FROM sync.outbox WHERE body ->> 'name' = 'pulled $n'"), 1, 'with one event');
	is(scalar(grep { ($_->{body} // '') =~ /name=pulled(%20|\+)$n&/ && $_->{path} eq '/v1/customers' } @{ $sandbox->requests(limit => 5000) }), 1,
		'which the other system gets once');
}
settled('at the end');

$node->stop;
done_testing();

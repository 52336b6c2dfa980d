# Vendors misbehave in every way the sandbox knows. Nothing is lost, nothing
# happens twice, neighbours do not notice and the app never fails.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', options => {
	billing => { timeout => '700 ms' },
	crm => { timeout => '700 ms', settle_time => '1500 ms' } });
my $sandbox = $hub->sandbox;
my %path = (billing => '/v1/customers', crm => '/rest/customers');

sub fault
{
	my ($system, %rule) = @_;
	my $match = delete $rule{match} // {};
	return $sandbox->fault(match => { path => $path{$system}, method => 'POST', %$match }, %rule);
}

# A customer made and changed while the fault is on; then all must be well.
sub survives
{
	my ($name, $system, @rules) = @_;

	fault($system, %$_) foreach @rules;
	my $id = $hub->write("$name 1");
	$hub->rename($id, "$name 2");
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], "$name at $system");
	my @unmatched = grep { !$_->{hits} } @{ $sandbox->faults };
	is_deeply(\@unmatched, [], "$name at $system was exercised");
	$sandbox->clear_faults;
	return $id;
}

my %error = ('Content-Type' => 'application/json');
foreach my $system (qw(billing crm))
{
	survives('throttled', $system,
		{ kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, body => '{}' });
	survives('server error before', $system, { kind => 'status', status => 503, body => '{"message": "down"}' });
	survives('server error after', $system, { kind => 'status', status => 500, body => 'oops', effect => \1 });
	survives('reset before', $system, { kind => 'reset_before' });
	survives('reset after', $system, { kind => 'reset_after' });
	survives('reset in the body', $system, { kind => 'reset_mid_body' });
	survives('truncated', $system, { kind => 'truncated' });
	survives('time-out after the effect', $system, { kind => 'timeout_after_effect', ms => 1200 });
	survives('late effect', $system, { kind => 'late_effect', ms => 900, hold_ms => 100 });
	survives('garbage', $system, { kind => 'garbage', effect => \1 });
	survives('bad charset', $system, { kind => 'bad_charset', field => 'name' });
	survives('NUL', $system, { kind => 'nul', field => 'name' });
}

$hub->node->stop;
done_testing();

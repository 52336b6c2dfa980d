# A journal is read back a little with each walk. What was dealt with is not read by id again and
# again: where nothing happens, nothing is asked but for the journal itself.
use strict;
use warnings;

use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('quiet', systems => ['billing']);
my $sandbox = $hub->sandbox;

sub poll { $hub->sql("SELECT sync.request_pull('billing', 'customer')"); return $hub->wait_idle }
sub reads { return scalar grep { $_->{method} eq 'GET' && $_->{path} =~ m{^/v1/customers/cus_} } @{ $sandbox->requests(limit => 5000) } }

$hub->sql("SELECT sync.create_stream('billing', 'customer')");
$hub->write('first');
$hub->wait_idle;
poll();
# The journal holds each of these states on several pages; all but the last differ from what is known.
my @ids = map { $hub->new_id } 1 .. 80;
$hub->sql(join '', map { $hub->insert_sql($_, 'state 0') } @ids);
foreach my $n (1 .. 2)
{
	$hub->wait_idle;
	$hub->sql(join '', map { $hub->rename_sql($_, "state $n") } @ids);
}
$hub->wait_idle;
my $id = $ids[0];
poll() foreach 1 .. 2;
my $before = reads();
poll() foreach 1 .. 4;
is(reads(), $before, 'four more polls read no record by id');
my $remote = $hub->value("SELECT sync.remote_id('customer', '$id', 'billing')");
$sandbox->stripe(POST => "/v1/customers/$remote", { email => 'new@vendor.example' });
poll() foreach 1 .. 2;
is($hub->value("SELECT billing_email FROM app.customer WHERE id = '$id'"), 'new@vendor.example', 'a new entry is dealt with');
is($hub->value("SELECT name FROM app.customer WHERE id = '$id'"), 'state 2', 'and nothing is taken back');
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'no invariant is broken');

$hub->node->stop;
done_testing();

# What no journal tells: records that somebody changed, deleted and made at the vendor's desk without a
# trace are found by a full listing of an object that is otherwise pulled by its journal.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['billing']);
my $sandbox = $hub->sandbox;

$hub->sql(q(ALTER TABLE app.customer ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()));
# More than a page of them, newest first.
my @id = map { $hub->write("Customer $_", billing_email => "c$_\@example.com") } 1 .. 130;
$hub->wait_idle;
$hub->sql(q(SELECT sync.create_stream('billing', 'customer', '1 s')));
$hub->wait_idle;

sub remote_id { my ($id) = @_; return $hub->value("SELECT sync.remote_id('customer', '$id', 'billing')") }

sub tamper
{
	my ($id, %what) = @_;
	return $sandbox->control(POST => 'tamper', { object => 'customer', id => remote_id($id), event => JSON::PP::false, %what });
}

sub run_full
{
	my $run = $hub->value(q(SELECT sync.reconcile('billing', 'customer', mode => 'full')));
	$hub->poll_until("SELECT state <> 'running' FROM sync.reconciliation WHERE id = $run");
	is($hub->value("SELECT state FROM sync.reconciliation WHERE id = $run"), 'done', "run $run has ended");
	return [ sort split /\n/, $hub->sql(q(SELECT kind || ' ' || remote_id || coalesce(' ' || field, '') FROM sync.break_entry WHERE status <> 'resolved')) ];
}

is_deeply(run_full(), [], 'what agrees has no breaks');
tamper($id[0], set => { name => 'Tampered' });
tamper($id[1], purge => JSON::PP::true);
tamper($id[2], delete => JSON::PP::true);
my $extra = ($sandbox->stripe(POST => '/v1/customers', { email => 'x@example.com', name => 'Extra' }))[1]{id};
my $told = $hub->value(q(SELECT count(*) FROM app.customer));
$hub->poll_until("SELECT count(*) > $told FROM app.customer");
is_deeply(run_full(), [ sort 'field_differs ' . remote_id($id[0]) . ' name', 'missing_there ' . remote_id($id[1]), 'missing_there ' . remote_id($id[2]) ],
	'what no journal told of is found; what it did tell of has come');
is($hub->value("SELECT count(*) FROM sync.external_id WHERE remote_id = '$extra'"), 1, 'by the stream');
tamper($id[0], set => { name => 'Customer 1' });
is(scalar(grep { /^field/ } @{ run_full() }), 0, 'a break that occurs no longer is closed');
is($hub->value(q(SELECT status FROM sync.break_entry WHERE kind = 'field_differs')), 'resolved', 'by itself');

# What is told while a suspect is read again is news and no break, though the stream looks once an hour.
$hub->sql(q(SELECT sync.drop_stream('billing', 'customer'); SELECT sync.create_stream('billing', 'customer', '1 hour')));
$hub->poll_until('SELECT finished_at IS NOT NULL FROM sync.stream_status');
my $slow = '/v1/customers/' . remote_id($id[3]);
tamper($id[3], set => { name => 'Never told' });
$sandbox->fault(kind => 'latency', ms => 2000, match => { method => 'GET', path => $slow });
my $run = $hub->value(q(SELECT sync.reconcile('billing', 'customer', mode => 'full')));
$hub->poll_until("SELECT phase = 'reading' FROM sync.job ORDER BY id DESC LIMIT 1");
$sandbox->stripe(POST => $slow, { name => 'Told meanwhile' });
$hub->poll_until("SELECT state <> 'running' FROM sync.reconciliation WHERE id = $run");
is($hub->value("SELECT found || ' ' || opened FROM sync.reconciliation WHERE id = $run"), '2 0', 'news that comes while a suspect is read is no break');
is($hub->value("SELECT name FROM app.customer WHERE id = '$id[3]'"), 'Told meanwhile', 'it has been pulled');

# So many that reading each by id would take longer than to list everything once more: 600 that somebody
# made while the stream does not look.
$hub->sql(q(UPDATE sync.stream SET every = NULL));
my @many = map { { object => 'customer', id => "cus_many$_", created => 1750000000 + $_, name => "Many $_", email => "m$_\@example.com" } } 1 .. 600;
$sandbox->control(POST => 'load', \@many);
my $reads = scalar grep { $_->{path} =~ m{^/v1/customers/} } @{ $sandbox->requests(limit => 5000) };
is(scalar(grep { /^missing_here cus_many/ } @{ run_full() }), 600, 'many that are missing are found');
is($hub->value(q(SELECT cursor ->> 'second' FROM sync.job ORDER BY id DESC LIMIT 1)), 'true', 'by listing everything twice');
cmp_ok(scalar(grep { $_->{path} =~ m{^/v1/customers/} } @{ $sandbox->requests(limit => 5000) }) - $reads, '<', 20, 'and not by reading each');

done_testing;
